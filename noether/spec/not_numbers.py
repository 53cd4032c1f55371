"""NaN in a spec: no setting means anything with it, and every comparison with a bound lets it pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from noether.spec.locate import TomlPath
from noether.spec.problem import Problem


def not_numbers_in(table: Any, path: TomlPath = ()) -> Iterator[Problem]:
    """Yield a problem for each NaN. Infinities are left to the fields: a threshold may be one."""
    if isinstance(table, float) and math.isnan(table):
        yield Problem(path, "found nan, expected a number")
    elif isinstance(table, dict):
        for key, item in table.items():
            yield from not_numbers_in(item, (*path, key))
    elif isinstance(table, list):
        for index, item in enumerate(table):
            yield from not_numbers_in(item, (*path, index))
