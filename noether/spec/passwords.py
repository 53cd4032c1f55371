"""Passwords in the addresses of a spec, where every copy of the spec would show them."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from noether.config.secrets import remember_password_in
from noether.spec.locate import TomlPath
from noether.spec.problem import Problem


def passwords_in(table: Any, references: Container[TomlPath], path: TomlPath = ()) -> Iterator[Problem]:
    """Mask every password of an address from now on; yield those that are written in the spec itself.

    Args:
        table: The spec, with the values of the environment in their places.
        references: The paths of those: a run keeps the reference, not the value.
        path: Where `table` is.
    """
    if isinstance(table, str):
        if "://" in table and remember_password_in(table) and path not in references:
            yield Problem(
                path,
                "the address holds a password, and every copy of the spec would show it",
                'put the whole address into a variable: { env = "TRACKING_URI", secret = true }',
            )
    elif isinstance(table, dict):
        for key, item in table.items():
            yield from passwords_in(item, references, (*path, key))
    elif isinstance(table, list):
        for index, item in enumerate(table):
            yield from passwords_in(item, references, (*path, index))
