"""Pictures of the terminal for docs/screenshots.py: commands in a pseudo terminal, and the screen drawn as SVG.

The commands run on a copy of specs/experiment.toml in a folder of their own.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
_ENVIRONMENT = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
_RUN = "noether run specs/experiment.toml --run-id terrain"
SHOTS = {
    "terminal-run": (_RUN, 104, "1365/2160"),
    "terminal-end": (_RUN, 104, None),
    "terminal-plan-model": ("noether plan specs/experiment.toml --model", 100, None),
    "terminal-overfit": ("noether run specs/experiment.toml --run-id one-batch --overfit-one-batch", 100, None),
}
"""Command, columns, and the text at which the picture is taken, of each picture; None for the end."""
_SHOWN = {"terminal-plan-model": slice(14, 26), "terminal-end": slice(-26, None), "terminal-overfit": slice(-18, None)}
"""Lines of a picture, if not all; the command stands above lines that begin later."""
_ESCAPE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")
_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#1b1d23" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, 20)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


@cache
def recorded(command: str, folder: Path, columns: int) -> str:
    """Return everything that a command writes to a terminal of this width."""
    own, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    environment = os.environ | _ENVIRONMENT
    process = subprocess.Popen(command.split(), cwd=folder, stdout=other, stderr=other, env=environment)
    os.close(other)
    written = bytearray()
    while True:
        try:
            part = os.read(own, 1 << 16)
        except OSError:  # the command has ended
            break
        if not part:
            break
        written += part
    os.close(own)
    process.wait()
    return written.decode()


def screen(written: str) -> list[str]:
    """Return the lines that stand on the screen, with their colors, after a text with movements of the cursor."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[?0-9;]*[A-Za-z]|\r\n|\r|\n)", written):
        escape = _ESCAPE.fullmatch(part)
        if part in ("\n", "\r\n"):
            row += 1
            if row == len(lines):
                lines.append("")
        elif escape is not None and escape[2] == "A":
            row = max(0, row - int(escape[1] or 1))
        elif part == "\r" or (escape is not None and escape[2] == "K"):
            lines[row] = ""  # what follows a return to the start of a line is written over it
        elif escape is None or escape[2] == "m":
            lines[row] += part
    return lines


def drawn(lines: list[str], columns: int) -> str:
    """Return an SVG of lines with colors."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True)
        for line in lines:
            console.print(Text.from_ansi(line), soft_wrap=True, no_wrap=True, crop=True)
    return console.export_svg(code_format=_SVG, unique_id="terminal")


def taken(name: str, folder: Path) -> str:
    """Return a picture as SVG.

    Args:
        name: Its name in `SHOTS`.
        folder: Working folder of its command; pictures of one folder share the runs in it.
    """
    command, columns, stop = SHOTS[name]
    spec = folder / "specs" / "experiment.toml"
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text((ROOT / "specs" / "experiment.toml").read_text())
    written = recorded(command, folder, columns)
    if stop is not None:
        at = written.find(stop)
        end = written.find("\x1b[2K", at)
        written = written[: end if at >= 0 else None].rstrip("\r")
    lines = [f"$ {command}", *screen(written)]
    while lines and not lines[-1].strip():
        lines.pop()
    if (part := _SHOWN.get(name)) is not None:
        lines = [lines[0], "…", *lines[part]]
    return drawn(lines, columns)
