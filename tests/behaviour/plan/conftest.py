from collections.abc import Callable
from typing import Any

import pytest

from noether.runs.plan.plan import Plan, make_plan
from noether.spec.load import load_spec


@pytest.fixture
def plan(tiny_spec: dict[str, Any]) -> Callable[..., Plan]:
    """Plans the tiny spec with some values changed."""

    def plan_with(changes: dict[str, Any] | None = None, **options: Any) -> Plan:
        return make_plan(load_spec(tiny_spec, set=changes), **options)

    return plan_with
