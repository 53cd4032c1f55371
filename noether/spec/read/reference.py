"""`{ env = "NAME", default = …, secret = true }`: a value that the environment holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from noether.config.secrets import remember_secret
from noether.kernel.names import nearest

_KEYS = ("default", "secret")


@dataclass(frozen=True)
class Reference:
    """A reference to an environment variable.

    Attributes:
        table: As it is written.
    """

    table: dict[str, Any]

    @property
    def name(self) -> str:
        """The variable."""
        return str(self.table["env"])

    @property
    def is_secret(self) -> bool:
        """Whether the value must not be shown."""
        return self.table.get("secret") is True

    def fault(self) -> tuple[str, str | None] | None:
        """Return what is wrong with the table or the variable and what to do, or None."""
        default = self.table.get("default")
        for key in self.table.keys() - {"env", *_KEYS}:
            return f"unknown key '{key}' in a reference to the environment", f"rename it to '{nearest(key, _KEYS)}'"
        if not self.name or "=" in self.name or "\0" in self.name:
            return "no environment variable has such a name", 'expected { env = "NAME" }'
        if not isinstance(self.table.get("secret", False), bool):
            return "`secret` is true or false", None
        if self.is_secret and default not in (None, ""):
            remember_secret(default if isinstance(default, str) else "")
            return "a secret with a default is none: everybody who reads the spec can see it", "remove the default"
        if default is None and self.text() is None:
            return (
                f"the environment variable {self.name} is not set",
                f"export {self.name}=…" + ("" if self.is_secret else f', or {{ env = "{self.name}", default = … }}'),
            )
        return None

    def text(self) -> str | None:
        """Return the variable's text, or None where it is not set; the text of a secret is masked from now on."""
        text = os.environ.get(self.name)
        if text is not None and self.is_secret:
            remember_secret(text)
        return text


@dataclass(frozen=True)
class KeptReference:
    """A reference that a spec was read with, to be written instead of the value.

    Attributes:
        reference: The reference.
        value: What it stood for, as it is dumped; something else there has come from elsewhere and stays.
    """

    reference: Reference
    value: Any


def is_reference(value: Any) -> bool:
    """Tell whether a table stands for a value of the environment: `env` and nothing that a reference cannot have."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("env"), str)
        and len(value) <= len(_KEYS) + 1
        and all(key == "env" or key in _KEYS or nearest(key, _KEYS) is not None for key in value)
    )
