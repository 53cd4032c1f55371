"""Write the text files that verbs make."""

from __future__ import annotations

from pathlib import Path

from noether.errors import StorageError, UsageError


def write_text(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file as UTF-8, in a folder that is made where it is missing.

    Args:
        path: The file.
        text: What to write; its line ends stay as they are.
        replace: Whether a file that exists may be overwritten.

    Raises:
        UsageError: It exists and must not be overwritten.
        StorageError: The disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if replace else "x", encoding="utf-8", newline="") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already", hint="choose another name, or remove it first") from error
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
