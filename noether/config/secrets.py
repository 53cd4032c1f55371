"""Secrets, masked where text is written, and references to environment variables that may hold one."""

from __future__ import annotations

import base64
import json
import logging
import os
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from noether.kernel.names import nearest

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


_KEYS = ("default", "secret")
_INVALID = "invalid-reference"


@dataclass(frozen=True)
class Reference:
    """A reference to an environment variable.

    Attributes:
        table: Its table as written.
    """

    table: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the variable."""
        return str(self.table["env"])

    @property
    def is_secret(self) -> bool:
        """True if the value must not be shown."""
        return self.table.get("secret") is True

    def fault(self) -> tuple[str, str, str | None] | None:
        """Return code, message and hint of what is wrong with the table or the variable, or None."""
        default = self.table.get("default")
        for key in self.table.keys() - {"env", *_KEYS}:
            message = f"unknown key '{key}' in a reference to the environment"
            return _INVALID, message, f"rename it to '{nearest(key, _KEYS)}'"
        if not self.name or "=" in self.name or "\0" in self.name:
            return _INVALID, "not a name of an environment variable", 'expected { env = "NAME" }'
        if not isinstance(self.table.get("secret", False), bool):
            return _INVALID, "`secret` must be true or false", None
        if self.is_secret and default not in (None, ""):
            remember_secret(default if isinstance(default, str) else "")
            return _INVALID, "a secret must not have a default: every reader of the spec sees it", "remove the default"
        if default is None and self.text() is None:
            or_default = "" if self.is_secret else f', or {{ env = "{self.name}", default = … }}'
            message = f"the environment variable {self.name} is not set"
            return "unset-variable", message, f"export {self.name}=…{or_default}"
        return None

    def text(self) -> str | None:
        """Return the text of the variable, or None if it is not set; a secret is masked from now on."""
        text = os.environ.get(self.name)
        if text is not None and self.is_secret:
            remember_secret(text)
        return text


@dataclass(frozen=True)
class KeptReference:
    """A reference that a resolved spec keeps in place of its value.

    Attributes:
        reference: The reference.
        value: Its value as the spec dumps it. If the spec has another value there, a plugin has set it and it stays.
    """

    reference: Reference
    value: Any


def is_reference(value: Any) -> bool:
    """Return True if a table is a reference: it has `env`, and no key that a reference cannot have."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("env"), str)
        and len(value) <= len(_KEYS) + 1
        and all(key == "env" or key in _KEYS or nearest(key, _KEYS) is not None for key in value)
    )
