"""Accumulation steps of updates that were not applied do not count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.core.callbacks.tracked import AppliedSteps, summed

updates = st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), max_size=8)


@given(updates)
def test_exactly_the_steps_of_applied_updates_come_through_in_order(updates: list[tuple[int, bool, bool]]) -> None:
    steps: AppliedSteps[tuple[int, int]] = AppliedSteps()
    found, expected = [], []
    for update, (count, applied, only_the_device_knows) in enumerate(updates):
        verdict = torch.tensor(float(applied)) if only_the_device_knows else applied
        for step in range(count):
            steps.add((update, step), accumulation_steps=count, accumulation_step=step, applied=verdict)
            if not only_the_device_knows:
                found += steps.read()
        expected += [(update, step) for step in range(count) if applied]
    assert found + steps.read() == expected
    assert steps.read() == []


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), st.integers(0, 40))
def test_a_sum_of_losses_does_not_depend_on_the_moments_of_adding_up(values: list[float], cut: int) -> None:
    losses = [torch.tensor(value) for value in values]
    parts = [summed(part) for part in (losses[:cut], losses[cut:]) if part]
    assert sum(parts) == pytest.approx(float(summed(losses)), rel=1e-12, abs=1e-9)
    assert float(summed(losses)) == pytest.approx(float(torch.stack(losses).double().sum()), rel=1e-12, abs=1e-9)
