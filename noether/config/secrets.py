"""Secret values: register them where they are read, mask them where text is written."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "***"
SHORTEST = 4
"""A shorter text is not a secret, and masking it would make every message unreadable."""

SHORTEST_ENCODED = 8
"""Fewer letters of base64 occur by chance."""

_secrets: set[str] = set()
_withheld: ContextVar[Mapping[str, str]] = ContextVar("noether_withheld", default={})  # noqa: B039  # never changed


def remember_secret(value: str) -> None:
    """Mask `value` from now on, in this process, wherever text passes `mask`: as it is, and as programs write it."""
    if len(value) >= SHORTEST:
        _secrets.update(_spellings(value))


def remember_password_in(address: str) -> bool:
    """Mask the password of an address, `https://user:password@host`, from now on; return True if it has one."""
    try:
        password = urlsplit(address).password
    except ValueError:  # not an address
        return False
    for spelling in {password, unquote(password)} if password else ():
        remember_secret(spelling)
    return bool(password)


def mask(text: str) -> str:
    """Return the text with every secret value replaced by `***`, the longest ones first."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def withhold(values: Mapping[str, str]) -> None:
    """Never quote the values of the environment of the spec that this thread has loaded last.

    Args:
        values: Names of variables by their text.
    """
    parts = [(part, name) for text, name in values.items() for part in (text, *_packages_in(text))]
    _withheld.set({spelling: name for part, name in parts for spelling in _spellings(part)})


def _packages_in(text: str) -> list[str]:
    """Return the packages of a dotted path, which messages name as well."""
    names = text.split(".") if all(name.isidentifier() for name in text.split(".")) else []
    return [".".join(names[:end]) for end in range(1, len(names))]


def withheld(text: str) -> str:
    """Return the text of a message with `$NAME` in place of values of the environment, and without secrets."""
    text = mask(text)
    values = _withheld.get()
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, f"${values[value]}")
    return text


def masked_traceback(error: BaseException) -> str:
    """Return the traceback of an error as Python prints it, without secrets and values of the environment."""
    return withheld("".join(traceback.format_exception(error)))


class MaskSecrets(logging.Filter):
    """Takes secret values out of a log record: out of its message, and out of the traceback that it carries."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, masked; without any secret it stays as it is."""
        if _secrets:
            record.msg, record.args = mask(record.getMessage()), None
            if record.exc_info and record.exc_info[1] is not None:
                record.exc_text = masked_traceback(record.exc_info[1]).rstrip("\n")
        return True


@lru_cache(maxsize=64)
def _spellings(value: str) -> frozenset[str]:
    """Return a secret as it stands in addresses, in the source of other languages, and in base64 at any offset."""
    data = value.encode("utf-8", "surrogatepass")
    spelt = {value, quote(data, safe=""), quote(data), quote_plus(data), repr(value)[1:-1], json.dumps(value)[1:-1]}
    for before in range(3):  # in `user:secret`, the letters depend on how many bytes come before and after
        whole = base64.b64encode(b"\0" * before + data)
        first, last = -(-before * 4 // 3), (before + len(data)) * 8 // 6
        inner = whole[first:last].decode()
        if len(inner) >= SHORTEST_ENCODED:
            spelt |= {inner, inner.replace("+", "-").replace("/", "_")}
    return frozenset(text for text in spelt if len(text) >= SHORTEST)
