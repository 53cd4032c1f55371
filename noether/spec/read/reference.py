"""References to environment variables: `{ env = "NAME", default = …, secret = true }`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from noether.config.secrets import remember_secret
from noether.kernel.names import nearest

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
