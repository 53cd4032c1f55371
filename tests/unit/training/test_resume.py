"""Callbacks get their states by id; states without a counterpart are reported."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from noether.core.callbacks.base import CallbackBase
from noether.training.resume import restore_callbacks


class Remembers(CallbackBase):
    """Has a state, and maybe a child."""

    def __init__(self, id: str, *children: CallbackBase) -> None:
        self.id, self.children, self.value, self.component = id, list(children), 0, None

    def get_children(self) -> list[CallbackBase]:
        return self.children

    def state_dict(self) -> dict[str, Any] | None:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value = state_dict["value"]


class Forgets(Remembers):
    def state_dict(self) -> None:
        return None


def test_states_are_found_by_id_at_every_depth(caplog: pytest.LogCaptureFixture) -> None:
    leaf = Remembers("ema/0.9/best/val")
    child = Remembers("ema/0.9/best", leaf)
    parent = Remembers("ema", child)
    states = {callback.id: {"value": number} for number, callback in enumerate((leaf, child, parent), start=1)}
    restore_callbacks([parent, Forgets("lr")], states)
    assert (leaf.value, child.value, parent.value) == (1, 2, 3)
    assert caplog.messages == []


def test_states_without_a_callback_and_callbacks_without_a_state_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    callback = Remembers("best-2")
    with caplog.at_level(logging.WARNING, logger="noether"):
        restore_callbacks([callback], {"best": {"value": 3}})
    assert callback.value == 0
    assert caplog.messages == [
        "state of callback 'best' in the checkpoint ignored: this run has no such callback. Did you mean 'best-2'?",
        "callback 'best-2' starts without a state: the checkpoint has none",
    ]


def test_a_state_that_a_callback_refuses_names_it() -> None:
    with pytest.raises(KeyError) as error:
        restore_callbacks([Remembers("best")], {"best": {}})
    assert error.value.__notes__ == ["raised by callback 'best' (kind Remembers) in load_state_dict"]
