"""Output of the command: tables, facts, JSON, comma-separated values, numbers in words, text files and errors."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from noether.config.secrets import mask, withheld
from noether.errors import NoetherError, StorageError, UsageError, notes_of
from noether.spec.errors.words import in_columns, visible, visible_lines

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WIDEST = 30
"""Characters: a longer name in a list of facts does not widen the column of names."""


def say(text: str = "", *, end: str = "\n", to_stderr: bool = False, flush: bool = False) -> None:
    """Print text with control characters escaped, which files of a run folder may hold; line ends and tabs stay."""
    print(visible_lines(text), end=end, file=sys.stderr if to_stderr else None, flush=flush)


def print_file(text: str) -> None:
    """Print the text of a TOML or JSON file, in which no line but a string can hold a control character."""
    print(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text), end="")


def print_drawn(line: str) -> None:
    """Print a line that Noether has drawn, with its colours; it holds no text of a file."""
    print(line)


def print_table(
    rows: Sequence[Mapping[str, object]],
    *,
    indent: str = "",
    right: Container[str] = (),
    titles: Mapping[str, str] | None = None,
) -> None:
    """Print rows with the same keys below a header, never wrapped or cut; columns of numbers end at the right.

    Args:
        rows: The rows; a key that is a name to type, such as that of a metric, stays as it is written.
        indent: Text before each line.
        right: Keys of further columns that end at the right.
        titles: Titles of columns by key, as they are shown, if they are not the keys.
    """
    if not rows:
        say(f"{indent}nothing found")
        return
    lines = [
        [visible((titles or {})[key]) if key in (titles or {}) else _header(key) for key in rows[0]],
        *([_cell(value) for value in row.values()] for row in rows),
    ]
    columns = zip(*lines, strict=True)
    ends_right = [
        key in right or all(map(_is_number, column[1:])) for key, column in zip(rows[0], columns, strict=True)
    ]
    for line in in_columns(lines, ends_right):
        say(f"{indent}{line}".rstrip())


def print_facts(facts: Iterable[tuple[str, object]], *, indent: str = "") -> None:
    """Print names and values in two columns."""
    lines = [(_cell(name), _cell(value)) for name, value in facts]
    width = max((len(name) for name, _ in lines if len(name) <= _WIDEST), default=0)
    for name, value in lines:
        say(f"{indent}{name.ljust(width)}  {value}".rstrip())


def print_section(title: str, facts: Mapping[str, object]) -> None:
    """Print facts below a title; print nothing if there are none."""
    if facts:
        say(f"\n{title}")
        print_facts(facts.items(), indent="  ")


def picked(found: object, names: str) -> dict[str, Any]:
    """Return the named attributes of an object, for JSON; other attributes stay internal."""
    return {name: getattr(found, name) for name in names.split()}


def print_json(value: Any, *, in_one_line: bool = False) -> None:
    """Print a value as JSON, without secrets."""
    print(mask(json.dumps(value, indent=None if in_one_line else 1)))


def print_csv(rows: Iterable[Sequence[Any]]) -> None:
    """Print rows as comma-separated values, numbers in full, text without secrets and control characters.

    A text that a spreadsheet would take for a formula begins with an apostrophe: it may come from another's run folder.
    """
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if cell is None else _csv_text(cell) if isinstance(cell, str) else cell for cell in row])
    print(mask(text.getvalue()), end="")


def _csv_text(text: str) -> str:
    return visible(f"'{text}" if text.startswith(("=", "+", "-", "@")) else text)


def print_error(error: NoetherError) -> None:
    """Print an error to standard error: the message, its notes, and the help; nothing if another rank has done so."""
    if error.is_reported:
        return
    from noether.spec.errors.problem import InvalidSpecError

    notes = [f"note: {note}" for note in notes_of(error)]
    if isinstance(error, InvalidSpecError):
        text = error.rendered(color=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))  # escaped already
        print(mask("\n".join([text, *(f"  {visible(withheld(note))}" for note in notes)])), file=sys.stderr)
    else:
        print_problem(error.message, [*notes, *([f"help: {error.hint}"] if error.hint else [])], code=error.code)


def print_problem(message: str, lines: Sequence[str], *, code: str | None = None) -> None:
    """Print a message with indented lines below it to standard error, without secrets and control characters."""
    label = f"error[{code}]" if code else "error"
    text = withheld("\n".join([f"{label}: {message}", *(f"  {line}" for line in lines)]))
    say(text, to_stderr=True)


def size_in_words(number: int) -> str:
    """Return a number of bytes in words: `412 B`, `1.6 MiB`."""
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"


def write_text(path: Path, text: str | bytes, *, replace: bool = True) -> None:
    """Write a file, text as UTF-8, and make its folder if it is missing.

    Args:
        path: The file.
        text: Its content; line ends stay as they are.
        replace: Overwrite a file that exists.

    Raises:
        UsageError: if the file exists and `replace` is False.
        StorageError: if the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb" if replace else "xb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already", hint="choose another name, or remove it first") from error
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def begins_with(path: Path, start: bytes) -> bool:
    """Return True if a file that the command line names can be read and begins with these bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def _header(key: str) -> str:
    return visible(key) if any(mark in key for mark in "/.[") else visible(key).upper()


def _cell(value: object) -> str:
    return visible(str(value))


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").isdigit()
