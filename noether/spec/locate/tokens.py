"""The tokens of valid TOML as regular expressions, each matched in linear time: no quantifier gives anything back."""

from __future__ import annotations

import re
import tomllib

# A comma ends no value that would not end without it, so between the items of valid TOML it is as good as a blank.
_GAP = r"(?:[ \t\r\n,]++|\#[^\n]*+)*+"

_BASIC = r'"(?:[^"\\]++|\\.)*+"'
_LITERAL = r"'[^']*+'"
# Two quotes may stand inside a multi-line string, right before the closing three too: of five, two belong to it.
_MULTILINE_BASIC = r'"""(?:"{0,2}+(?:[^"\\]++|\\.))*+"{3,5}'
_MULTILINE_LITERAL = r"'''(?:'{0,2}+[^']++)*+'{3,5}"
# Numbers, booleans and dates; after a blank only a time can follow, and only in a date.
_PLAIN = r"[^\s,\]}\#\"'\[{]++(?:\ \d\d:[^\s,\]}\#]++)?"

GAP = re.compile(_GAP)
"""Blanks, line ends, comments and commas, or nothing."""

KEY_PART = re.compile(rf"[ \t]*+([A-Za-z0-9_-]++|{_BASIC}|{_LITERAL})[ \t]*+([.=\]])", re.DOTALL)
"""Group 1: one part of a key. Group 2: what follows it, `.` before the next part."""

VALUE = re.compile(rf"{_GAP}({_MULTILINE_BASIC}|{_MULTILINE_LITERAL}|{_BASIC}|{_LITERAL}|{_PLAIN}|[\[{{\]])", re.DOTALL)
"""Group 1: a value in one token, or the bracket that opens a list or an inline table, or that closes the list."""


def key_name(part: str) -> str:
    """Return one part of a key as TOML reads it."""
    if "\\" in part:
        (name,) = tomllib.loads(f"{part} = 0")
        return name
    return part[1:-1] if part[0] in "\"'" else part
