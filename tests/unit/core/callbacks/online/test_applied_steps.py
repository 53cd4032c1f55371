"""Steps of updates that were not applied do not count, whoever knows of it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.core.callbacks.online.additional_outputs import AppliedSteps

updates = st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), max_size=8)


@given(updates)
def test_exactly_the_steps_of_applied_updates_come_through_in_order(updates: list[tuple[int, bool, bool]]) -> None:
    steps: AppliedSteps[tuple[int, int]] = AppliedSteps()
    found, expected = [], []
    for update, (count, applied, only_the_device_knows) in enumerate(updates):
        verdict = torch.tensor(float(applied)) if only_the_device_knows else None
        for step in range(count):
            if verdict is None and not applied and step == count - 1:
                break  # the loop calls no hook for the step in which it finds out
            found += steps.add((update, step), accumulation_steps=count, accumulation_step=step, applied=verdict)
        expected += [(update, step) for step in range(count) if applied]
    assert found + steps.settle() == expected
    assert steps.settle() == []


def test_the_device_is_asked_now_and_then_so_that_few_steps_are_held() -> None:
    steps: AppliedSteps[int] = AppliedSteps()
    applied = torch.tensor(1.0)
    known = [steps.add(step, accumulation_steps=1, accumulation_step=0, applied=applied) for step in range(1000)]
    assert len(steps.settle()) < 300
    assert sum(bool(some) for some in known) < 10
