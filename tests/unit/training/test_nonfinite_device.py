"""Verdicts on the device until a boundary reads them, counted as on the host."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from noether.errors import NonFiniteError
from noether.training.nonfinite import DeviceGuard, FiniteGuard, finite_guard

patterns = st.lists(st.booleans(), min_size=1, max_size=12)
"""Which of some updates are finite."""


def optimizer(kind: type[torch.optim.Optimizer] = torch.optim.AdamW, **options: object) -> torch.optim.Optimizer:
    return kind([torch.nn.Parameter(torch.ones(2))], **{"fused": True, **options})  # type: ignore[call-arg]


def guard(*, skip: bool = True, max_in_a_row: int = 3) -> DeviceGuard:
    made = DeviceGuard(skip=skip, max_in_a_row=max_in_a_row)
    made.adopt([optimizer()])
    return made


def loss(finite: bool) -> torch.Tensor:
    return torch.tensor(1.0 if finite else math.nan)


def failure(found: FiniteGuard, update: int) -> str | None:
    try:
        found.raise_if_given_up(update, "step-0")
    except NonFiniteError as error:
        return error.message
    return None


def looked_at_each(pattern: list[bool], **options: object) -> tuple[FiniteGuard, str | None]:
    """Return a guard of the host after these updates, or after the one that ended the run, and why it did."""
    found = FiniteGuard(**options)  # type: ignore[arg-type]
    for update, finite in enumerate(pattern, 1):
        if not found.admits(loss(finite), []) and (message := failure(found, update)):
            return found, message
    return found, None


@given(patterns, st.booleans(), st.integers(1, 4))
def test_a_late_reader_counts_as_a_host_that_reads_each_time(
    pattern: list[bool], skip: bool, max_in_a_row: int
) -> None:
    found = guard(skip=skip, max_in_a_row=max_in_a_row)
    for finite in pattern:
        assert found.admits(loss(finite), [])
    expected, message = looked_at_each(pattern, skip=skip, max_in_a_row=max_in_a_row)
    assert failure(found, len(pattern)) == message
    assert (found.in_a_row, found.skipped_updates) == (expected.in_a_row, expected.skipped_updates)


@given(patterns, patterns)
def test_it_does_not_matter_how_often_the_flags_are_read(first: list[bool], second: list[bool]) -> None:
    often, once = guard(max_in_a_row=99), guard(max_in_a_row=99)
    for finite in [*first, *second]:
        once.admits(loss(finite), [])
    for finite in first:
        often.admits(loss(finite), [])
    often.read()
    for finite in second:
        often.admits(loss(finite), [])
        often.read()
    once.read()
    assert (often.in_a_row, often.skipped_updates) == (once.in_a_row, once.skipped_updates)


def test_the_failure_names_its_update_although_the_flags_were_read_before_the_boundary() -> None:
    found = guard(skip=False)
    found.admits(loss(True), [])
    found.admits(loss(False), [])
    found.read()
    for _ in range(3):
        found.admits(loss(True), [])
    assert found.waiting
    assert "not finite in update 12;" in (failure(found, 15) or "")
    assert not found.waiting


def test_whether_an_update_was_applied_is_a_number_on_the_device() -> None:
    found = guard()
    found.admits(loss(True), [])
    first = found.applied
    found.admits(torch.tensor(1.0), [torch.tensor([1.0, math.inf])])
    assert first is not None and found.applied is not None
    assert (first.item(), found.applied.item()) == (1.0, 0.0)  # the first is not overwritten by the second
    assert not found.was_skipped


def test_an_earlier_accumulation_step_masks_its_own_update_only() -> None:
    found = guard()
    for bad in (True, False):
        found.keep(loss(not bad))
        assert found.applied is not None
        assert found.applied.item() == float(not bad)
        found.admits(loss(True), [])
        assert found.applied.item() == float(not bad)
    found.read()
    assert found.skipped_updates == 1


def test_many_unread_flags_are_few_tensors() -> None:
    found = guard(max_in_a_row=9999)
    for update in range(1000):
        found.admits(loss(update % 3 > 0), [])
    assert len(found._flags) < 260
    found.read()
    assert found.skipped_updates == 334


class Reads(TorchFunctionMode):
    """Counts copies of numbers to Python."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += getattr(function, "__name__", "") in {"tolist", "item", "__bool__", "__float__", "__int__"}
        return function(*args, **(kwargs or {}))


def test_all_flags_are_read_in_one_copy() -> None:
    found = guard(max_in_a_row=9999)
    with Reads() as reads:
        for update in range(600):
            found.keep(loss(True))
            found.admits(loss(update % 5 > 0), [torch.ones(2)])
        assert reads.count == 0
        found.read()
        found.read()
    assert reads.count == 1


@pytest.mark.parametrize("foreign", [optimizer(fused=False), torch.optim.Adadelta([torch.ones(1)])])
def test_the_host_looks_where_one_optimizer_takes_no_flag(foreign: torch.optim.Optimizer) -> None:
    found = DeviceGuard(skip=True, max_in_a_row=3)
    found.adopt([optimizer(), foreign])
    found.keep(loss(False))
    assert found.was_skipped
    assert not found.admits(loss(False), [])
    assert found.was_skipped
    assert found.applied == 0.0
    assert found.in_a_row == 1


def test_overflows_count_in_a_row_only_where_the_scale_cannot_get_lower() -> None:
    found = guard(max_in_a_row=99)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    parameter = torch.nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([parameter], lr=0.1, fused=True)
    for _ in range(5):  # at a scale of 4, 2, 1, 1/2 and 1/4
        parameter.grad = scaler.scale(torch.tensor([math.inf]))
        scaler.unscale_(sgd)
        found.admits(torch.tensor(1.0), [parameter.grad], scaler)
        scaler.update()
    found.read()
    assert (found.skipped_updates, found.in_a_row) == (5, 3)


def test_the_device_decides_whether_the_host_reads_the_verdict() -> None:
    settings = {"skip": True, "max_in_a_row": 3}
    assert type(finite_guard(torch.device("cpu"), **settings)) is FiniteGuard  # type: ignore[arg-type]
    assert type(finite_guard(torch.device("cuda"), **settings)) is DeviceGuard  # type: ignore[arg-type]


def test_unread_updates_count_before_one_that_the_host_reads() -> None:
    found = guard(max_in_a_row=9)
    found.admits(loss(False), [])
    found.adopt([optimizer(fused=False)])
    found.admits(loss(True), [])
    assert (found.in_a_row, found.skipped_updates) == (0, 1)
