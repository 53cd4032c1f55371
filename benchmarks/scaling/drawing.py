"""Draw line charts as SVG, with names at the ends of lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]
LEFT, WIDTH, RIGHT, TOP, HEIGHT, BOTTOM = 62, 230, 112, 40, 220, 48  # parts of a chart, in pixels
COLOURS = ("#0b5fa5", "#b3400a", "#2a7d2a", "#7a3d9a")


@dataclass(frozen=True)
class Chart:
    """A chart; both axes are logarithmic, unless the upright one goes from 0 to 100.

    Attributes:
        title: Heading.
        across: Name of the level axis.
        upright: Name of the upright axis.
        ticks: Values that the level axis shows; the first and the last one are its ends.
        lines: Points by the name of their line.
        is_linear: True for an upright axis from 0 to 100.
    """

    title: str
    across: str
    upright: str
    ticks: Sequence[float]
    lines: Mapping[str, Points]
    is_linear: bool = False

    def x(self, value: float) -> float:
        first, last = self.ticks[0], self.ticks[-1]
        return LEFT + WIDTH * math.log(value / first) / math.log(last / first)

    def heights(self) -> list[float]:
        """Return the values that the upright axis shows: powers of ten around all points, or quarters of 100."""
        if self.is_linear:
            return [0, 25, 50, 75, 100]
        powers = [math.log10(y) for points in self.lines.values() for _, y in points]
        return [10.0**power for power in range(math.floor(min(powers)), math.ceil(max(powers)) + 1)]

    def y(self, value: float) -> float:
        first, *_, last = self.heights()
        share = value / 100 if self.is_linear else math.log(value / first) / math.log(last / first)
        return TOP + HEIGHT * (1 - share)


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def line(points: str, colour: str, width: float) -> str:
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def drawn(chart: Chart) -> list[str]:
    """Return the elements of a chart."""
    bottom, right = TOP + HEIGHT, LEFT + WIDTH
    parts = [text(LEFT, 20, chart.title, 'font-weight="bold"')]
    parts.append(text(LEFT + WIDTH / 2, bottom + 36, chart.across, 'text-anchor="middle"'))
    parts.append(text(LEFT - 8, TOP - 8, chart.upright, 'text-anchor="end"'))
    for tick in chart.ticks:
        x = chart.x(tick)
        parts += [line(f"{x:.1f},{TOP} {x:.1f},{bottom}", "#ddd", 1)]
        parts += [text(x, bottom + 17, f"{tick:,}", 'text-anchor="middle"')]
    for tick in chart.heights():
        y = chart.y(tick)
        parts += [line(f"{LEFT},{y:.1f} {right},{y:.1f}", "#ddd", 1)]
        parts += [text(LEFT - 6, y + 4, f"{tick:g}", 'text-anchor="end"')]
    free = float(bottom)
    ends = sorted(zip(chart.lines.items(), COLOURS, strict=False), key=lambda each: each[0][1][-1][1])
    for (name, points), colour in ends:
        parts.append(line(" ".join(f"{chart.x(x):.1f},{chart.y(y):.1f}" for x, y in points), colour, 2))
        free = min(free, chart.y(points[-1][1]) + 4)
        parts.append(text(right + 6, free, name, f'fill="{colour}"'))
        free -= 14  # names of lines that end close to each other stay apart
    return parts


def drawing(*charts: Chart) -> str:
    """Return the charts, two in a row, so that a page shows their text in its own size."""
    across, down = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM
    size = f'width="{2 * across}" height="{math.ceil(len(charts) / 2) * down}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    lines = [head, '<rect width="100%" height="100%" fill="white"/>']
    for number, chart in enumerate(charts):
        place = f"{number % 2 * across} {number // 2 * down}"
        lines += [f'<g transform="translate({place})">', *drawn(chart), "</g>"]
    return "\n".join([*lines, "</svg>", ""])
