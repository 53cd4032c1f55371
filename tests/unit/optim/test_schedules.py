"""Properties of schedules beyond torch's numbers: lengths in any unit, and values in runs of any length."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from noether.config.discriminated import Discriminated
from noether.errors import SpecError
from noether.optim.build import build_schedule
from noether.optim.schedules import Schedule

CONFIG: TypeAdapter[Any] = TypeAdapter(Annotated[Any, Discriminated("schedule")])
MINIMAL: dict[str, dict[str, Any]] = {
    "constant": {},
    "linear": {"over_epochs": 0.01},
    "cosine": {"over_epochs": 0.01},
    "cosine-restarts": {"first_epochs": 0.01},
    "cyclic": {"up_epochs": 0.01},
    "exponential": {"gamma": 0.9, "unit": "epoch"},
    "linear-warmup-cosine-decay": {"warmup_percent": 100},
    "multi-step": {"milestones": [3]},
    "one-cycle": {},
    "polynomial": {"over_epochs": 0.01},
    "step": {"every_epochs": 0.01},
}


def schedule(kind: str, *, total: int = 100, per_epoch: int = 10, **settings: Any) -> Schedule:
    config = CONFIG.validate_python({"kind": kind, **settings})
    return build_schedule(config, total_updates=total, updates_per_epoch=per_epoch)


@pytest.mark.parametrize("kind", MINIMAL)
@given(total=st.integers(0, 7), per_epoch=st.integers(1, 5))
def test_factors_are_finite_and_not_negative_in_runs_of_any_length(kind: str, total: int, per_epoch: int) -> None:
    found = schedule(kind, total=total, per_epoch=per_epoch, **MINIMAL[kind])
    factors = [found.factor(update) for update in range(total + 3)]
    assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)


@pytest.mark.parametrize(
    "length", [{"warmup_updates": 20}, {"warmup_epochs": 2}, {"warmup_epochs": 2.04}, {"warmup_percent": 20}]
)
def test_a_length_means_the_same_in_each_unit(length: dict[str, float]) -> None:
    found, expected = (schedule("linear-warmup-cosine-decay", **given) for given in (length, {"warmup_updates": 20}))
    assert [found.factor(update) for update in range(100)] == [expected.factor(update) for update in range(100)]


def test_two_lengths_for_one_thing_are_refused_with_both() -> None:
    with pytest.raises(SpecError) as caught:
        schedule("linear-warmup-cosine-decay", warmup_updates=3, warmup_percent=5)
    assert "'linear-warmup-cosine-decay'" in str(caught.value)
    assert "warmup_updates = 3 and warmup_percent = 5.0" in caught.value.message


def test_a_length_without_a_default_has_to_be_given() -> None:
    with pytest.raises(SpecError) as caught:
        schedule("step")
    assert "every_updates" in str(caught.value)
    assert "every_epochs" in str(caught.value)
    assert "every_percent" in str(caught.value)


def test_an_error_about_lengths_names_only_settings_that_exist() -> None:
    with pytest.raises(SpecError) as caught:
        schedule("cosine", over_updates=3, over_epochs=1)
    assert "over_percent" not in str(caught.value)


def test_no_update_is_wasted_on_a_rate_of_zero_while_warming_up() -> None:
    found = schedule("linear-warmup-cosine-decay", warmup_updates=4)
    assert [found.factor(update) for update in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_warmup_starts_and_decay_ends_where_asked() -> None:
    found = schedule("linear-warmup-cosine-decay", warmup_updates=4, start=0.2, end=0.1)
    assert found.factor(0) == pytest.approx(0.4)
    assert found.factor(100) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("kind", "settings", "after"),
    [
        ("constant", {"scale": 0.3, "hold_updates": 5}, 1.0),
        ("constant", {"scale": 0.3}, 0.3),
        ("linear", {"end": 0.3, "over_updates": 5}, 0.3),
        ("cosine", {"end": 0.3, "over_updates": 5}, 0.3),
        ("polynomial", {"over_updates": 5}, 0.0),
    ],
)
def test_after_its_length_a_schedule_stays_where_it_is(kind: str, settings: dict[str, Any], after: float) -> None:
    found = schedule(kind, **settings)
    assert [found.factor(update) for update in (5, 6, 50, 100)] == pytest.approx([after] * 4)


def test_exponential_by_epoch_moves_at_epoch_boundaries_only() -> None:
    found = schedule("exponential", gamma=0.5, unit="epoch")
    assert [found.factor(update) for update in (0, 9, 10, 19, 20)] == [1, 1, 0.5, 0.5, 0.25]


def test_one_cycle_stays_at_its_end() -> None:
    found = schedule("one-cycle")
    assert found.factor(500) == found.factor(99) == pytest.approx(1 / 25 / 1e4)


@given(st.integers(0, 200))
def test_a_schedule_asked_twice_answers_the_same(update: int) -> None:
    found = schedule("cosine-restarts", first_updates=7, growth=2)
    assert (
        found.factor(update)
        == found.factor(update)
        == schedule("cosine-restarts", first_updates=7, growth=2).factor(update)
    )


def test_impossible_lengths_are_refused_by_the_config() -> None:
    with pytest.raises(ValidationError):
        schedule("linear-warmup-cosine-decay", warmup_percent=101)
