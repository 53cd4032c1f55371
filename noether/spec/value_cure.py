"""What to type in place of the value of an override that begins like TOML and is none."""

from __future__ import annotations

import re
import tomllib

from noether.spec.literal import toml_string

_LONGEST = 80
_STRING = r"""("(?:[^"\\]|\\.)*"|'[^']*')"""
_BARE_WORD = r"(?<![\w.+-])([A-Za-z_][\w./:-]*)(?![\w./:-]|\s*=)"
_STRING_OR_WORD = re.compile(f"{_STRING}|{_BARE_WORD}")
_WORDS_OF_TOML = ("true", "false", "inf", "nan")


def cure(path: str, value: str) -> str | None:
    """Return what to do, with the argument as the user should have typed it where that can be told; or None.

    Args:
        path: The argument up to and with its `=`.
        value: What stands behind it.
    """
    if value.startswith(("[", "{")):
        repaired = _with_quotes(value)
        if repaired == value:
            return None
        return f"words inside brackets need quotes: {_argument(path, repaired if _is_toml(repaired) else None)}"
    argument = _argument(path, toml_string(value.strip("\"'")))
    return f"quote a string: {argument}"


def _argument(path: str, value: str | None) -> str:
    """Return an argument for a shell, or an example in place of what is not known or would be hard to read."""
    argument = f"{path.strip()}{value}"
    if value is None or len(argument) > _LONGEST or not argument.isprintable():
        return "-s 'path=\"value\"'"
    return "-s '" + argument.replace("'", "'\\''") + "'"


def _with_quotes(text: str) -> str:
    return _STRING_OR_WORD.sub(lambda found: found[1] or _quoted(found[2]), text)


def _quoted(word: str) -> str:
    return word if word in _WORDS_OF_TOML else toml_string(word)


def _is_toml(value: str) -> bool:
    try:
        tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return False
    return True
