"""Pictures of a spec in an editor: Neovim in a pseudo terminal, set up as the page on editors prints it.

`python docs/screenshots.py editor` makes them.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

from terminal_pictures import drawn

PAGE = Path(__file__).parent / "how-to" / "complete-and-check-specs-in-an-editor.md"
SPEC = """#:schema ../.noether/spec.schema.json
[datasets.train]
kind = "terrain"

[trainer]
kind = "weighted-loss"
max_epochs = 20
effective_batch_size = 256
field_weights = { elevation = 1.0 }

[model]
kind = "mlp"
"""
_COMPLETE, _NEXT, _ESCAPE = "\x18\x0f", "\x0e", "\x1b"  # CTRL-X CTRL-O, CTRL-N, ESC
SHOTS = {
    "editor-keys": ("Go", _COMPLETE, *[_NEXT] * 3),
    "editor-kinds": ("9Go\r[[trainer.callbacks]]\rkind = ", _COMPLETE, *[_NEXT] * 5),
    "editor-mistakes": ('Gohidden = "wide"\rdropuot = 0.1', _ESCAPE, "k", "\x17d"),  # CTRL-W d
}
"""Keys to press for each picture; the screen comes to rest after each of them."""
_SIZE = 25, 100  # rows and columns
_STARTS, _RESTS = 6.0, 2.0
"""Seconds without output after which Neovim and its language server have started, and have answered a key."""


def missing() -> str | None:
    """Return what to install for these pictures, or None."""
    nvim = shutil.which("nvim")
    told = subprocess.run([nvim, "--version"], capture_output=True, text=True).stdout if nvim else ""
    version = re.search(r"v(\d+)\.(\d+)", told)
    if version is None or (int(version[1]), int(version[2])) < (0, 11):
        return "Neovim 0.11 or newer"
    if shutil.which("tombi") is None:
        return "Tombi: pip install tombi"
    try:
        import pyte  # noqa: F401
    except ImportError:
        return "Pyte: pip install pyte"
    return None


def draw(folder: Path, pictures: Path) -> None:
    """Make docs/screenshots/editor-*.svg.

    Args:
        folder: An empty folder.
        pictures: The folder for the pictures.
    """
    config = re.search(r"```lua\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert config is not None, f"{PAGE} has no block of Lua"
    (folder / "nvim").mkdir()
    (folder / "nvim" / "init.lua").write_text(config[1])
    subprocess.run(
        [sys.executable, "-m", "noether", "spec", "schema", "-o", ".noether/spec.schema.json"], cwd=folder, check=True
    )
    (folder / "specs").mkdir()
    (folder / "specs" / "beam.toml").write_text(SPEC)
    for name, keys in SHOTS.items():
        (pictures / f"{name}.svg").write_text(drawn(_screen(folder, keys), _SIZE[1]))
        print(f"wrote docs/screenshots/{name}.svg")


def _screen(folder: Path, keys: tuple[str, ...]) -> list[str]:
    """Return the lines of Neovim's screen after some keys."""
    import pyte

    screen = pyte.Screen(_SIZE[1], _SIZE[0])
    stream = pyte.ByteStream(screen)
    own, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", *_SIZE, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
    environment |= {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = ["nvim", "-n", "--cmd", "set termguicolors", "specs/beam.toml"]
    with subprocess.Popen(command, cwd=folder, stdin=other, stdout=other, stderr=other, env=environment) as process:
        os.close(other)
        _feed(stream, own, _STARTS)
        for key in keys:
            os.write(own, key.encode())
            _feed(stream, own, _RESTS)
        process.kill()
    os.close(own)
    return ["".join(map(_ansi, (screen.buffer[row][column] for column in range(_SIZE[1])))) for row in range(_SIZE[0])]


def _feed(stream: Any, terminal: int, rest: float) -> None:
    """Pass on output until there is none for a while."""
    end = time.monotonic() + rest
    while (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            stream.feed(os.read(terminal, 1 << 16))
            end = time.monotonic() + rest


def _ansi(char: Any) -> str:
    """Return a character of the screen with its colors as an escape sequence."""
    codes = ["1"] if char.bold else []
    for base, color in ((38, char.bg if char.reverse else char.fg), (48, char.fg if char.reverse else char.bg)):
        if re.fullmatch("[0-9a-f]{6}", color):
            codes.append(f"{base};2;{int(color[:2], 16)};{int(color[2:4], 16)};{int(color[4:], 16)}")
    return f"\x1b[0;{';'.join(codes)}m{char.data}" if codes else f"\x1b[0m{char.data}"
