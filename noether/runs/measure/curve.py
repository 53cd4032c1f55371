"""A measured curve: as a picture in a file, and as a sketch in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from noether.errors import StorageError

_WIDTH, _HEIGHT = 64, 12  # characters
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column."""
_BRAILLE = 0x2800


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over a logarithmic axis.

    Attributes:
        x: Positions, all above 0, in order.
        y: Values; one that is not finite is left out.
        x_label: Name of the axis.
        y_label: Name of the values.
        title: Title of the picture.
        faint: Further values at the same positions, drawn faintly, such as those before smoothing.
        marks: Positions that are marked, by their label; the first one is the suggestion.
        ceiling: The highest value that is drawn; larger ones leave the picture. None to draw all.
    """

    x: Sequence[float]
    y: Sequence[float]
    x_label: str
    y_label: str
    title: str
    faint: Sequence[float] = ()
    marks: Mapping[str, float] = field(default_factory=dict)
    ceiling: float | None = None

    def save(self, path: Path) -> None:
        """Write the curve as a picture.

        Raises:
            StorageError: if the disk refuses.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        if self.faint:
            axes.plot(self.x, self.faint, color="#9db8d2", linewidth=1, label="each update")
        axes.plot(self.x, self.y, color="#1f4e79", linewidth=2, marker="" if len(self.x) > 30 else "o", markersize=4)
        for number, (label, place) in enumerate(self.marks.items()):
            style = {"color": "#c0392b", "linewidth": 1.6} if number == 0 else {"color": "#7f8c8d", "linestyle": "--"}
            axes.axvline(place, label=label, **style)
        axes.set_xscale("log")
        if self.faint:
            low, high = self._limits()
            axes.set_ylim(low - 0.05 * (high - low or 1.0), high + 0.05 * (high - low or 1.0))
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.set_title(self.title, loc="left", fontsize=11)
        axes.grid(visible=True, which="major", color="#e5e8ea")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if self.marks or self.faint:
            axes.legend(frameon=False)
        try:
            figure.savefig(path, dpi=130)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error

    def sketch(self, *, in_ascii: bool = False) -> list[str]:
        """Return lines that draw the curve, with its extremes beside the axes and the suggestion below.

        Args:
            in_ascii: Draw with asterisks, for a terminal without Unicode.
        """
        low, high = self._limits()
        columns, rows = (_WIDTH, _HEIGHT) if in_ascii else (2 * _WIDTH, 4 * _HEIGHT)
        dots: set[tuple[int, int]] = set()
        before: int | None = None
        for column in range(columns):
            value = self._at(column / (columns - 1))
            row = None if value is None or value > high else round((high - value) / (high - low or 1.0) * (rows - 1))
            if row is not None:
                near = row if before is None else before + (row > before) - (row < before)
                dots.update((column, one) for one in range(min(near, row), max(near, row) + 1))
            before = row
        lines = []
        for row in range(_HEIGHT):
            if in_ascii:
                text = "".join("*" if (column, row) in dots else " " for column in range(_WIDTH))
            else:
                text = "".join(_braille(dots, column, row) for column in range(_WIDTH))
            label = _number(high) if row == 0 else _number(low) if row == _HEIGHT - 1 else ""
            lines.append(f"{label:>10} |{text}".rstrip())
        lines.append(f"{'':>10} +{'-' * _WIDTH}")
        first, last = _number(self.x[0]), _number(self.x[-1])
        lines.append(f"{'':>12}{first}{last:>{_WIDTH - len(first)}}")
        for label, place in list(self.marks.items())[:1]:
            column = round(self._share(place) * (_WIDTH - 1))
            text = f"{'':>12}{' ' * column}^ {label}"
            lines.append(text if column < _WIDTH // 2 else f"{'':>12}{label + ' ^':>{column + 1}}")
        return lines

    def _limits(self) -> tuple[float, float]:
        finite = [value for value in self.y if math.isfinite(value)] or [0.0]
        return min(finite), max(finite) if self.ceiling is None else max(min(finite), min(max(finite), self.ceiling))

    def _share(self, place: float) -> float:
        start, end = math.log(self.x[0]), math.log(self.x[-1])
        return (math.log(place) - start) / (end - start or 1.0)

    def _at(self, share: float) -> float | None:
        """Return the value at a share of the axis, on the line between its neighbours; None if one is not finite."""
        before = 0
        while before < len(self.x) - 2 and self._share(self.x[before + 1]) < share:
            before += 1
        after = min(before + 1, len(self.x) - 1)
        left, right = self._share(self.x[before]), self._share(self.x[after])
        weight = (share - left) / (right - left) if right > left else 0.0
        value = self.y[before] * (1 - weight) + self.y[after] * weight
        return value if math.isfinite(value) else None


def _braille(dots: set[tuple[int, int]], column: int, row: int) -> str:
    bits = sum(_DOTS[y][x] for y in range(4) for x in range(2) if (2 * column + x, 4 * row + y) in dots)
    return chr(_BRAILLE + bits) if bits else " "


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
