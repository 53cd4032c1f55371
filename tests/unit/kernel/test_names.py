"""Suggestions of similar names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.kernel.names import did_you_mean, nearest

KINDS = ["best-checkpoint", "checkpoint", "ema", "offline-loss", "AdamW"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("chekpoint", "checkpoint"),
        ("offline_loss", "offline-loss"),
        ("OFFLINE-LOSS", "offline-loss"),
        ("adamw", "AdamW"),
        ("quux", None),
        ("", None),
    ],
)
def test_nearest_is_the_name_that_was_meant(typed: str, meant: str | None) -> None:
    assert nearest(typed, KINDS) == meant


def test_without_candidates_nothing_is_near() -> None:
    assert nearest("ema", []) is None
    assert did_you_mean("ema", []) == ""


def test_suggestion_is_ready_to_append_to_a_message() -> None:
    assert did_you_mean("chekpoint", KINDS) == " Did you mean 'checkpoint'?"


@given(st.lists(st.text("abc-_", min_size=1, max_size=8), min_size=1))
def test_a_known_name_is_nearest_to_itself_up_to_spelling(names: list[str]) -> None:
    found = nearest(names[0], names)
    assert found is not None
    assert found.replace("_", "-") == names[0].replace("_", "-")
