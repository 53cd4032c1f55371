"""Settings of a trainer, and contradictions among them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.checkpoint.saving import CheckpointCallbackConfig
from noether.training.trainers.config import LIMITS, BaseTrainerConfig


def config(**settings: Any) -> BaseTrainerConfig[CallBackBaseConfig]:
    return BaseTrainerConfig[CallBackBaseConfig].model_validate({"effective_batch_size": 4, **settings})


@pytest.mark.parametrize("limit", LIMITS)
def test_one_limit_is_enough_and_may_be_zero(limit: str) -> None:
    assert getattr(config(**{limit: 0}), limit) == 0


@pytest.mark.parametrize("limits", [(), *itertools.combinations(LIMITS, 2), LIMITS], ids=str)
def test_no_limit_and_several_are_refused(limits: tuple[str, ...]) -> None:
    found = " and ".join(limits) or "none"
    with pytest.raises(ValidationError) as caught:
        config(**dict.fromkeys(limits, 3))
    assert f"found {found}, expected" in str(caught.value)


@pytest.mark.parametrize("verb", ["log", "track"])
def test_two_intervals_for_the_same_defaults_are_refused(verb: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(max_epochs=1, **{f"{verb}_every_n_epochs": 1, f"{verb}_every_n_samples": 1})
    assert f"{verb}_every_n_epochs and {verb}_every_n_samples" in str(caught.value)


def test_progress_and_metrics_may_have_different_units() -> None:
    assert config(max_epochs=1, log_every_n_epochs=1, track_every_n_updates=1).track_every_n_updates == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"effective_batch_size": 0},
        {"max_epochs": -1},
        {"precision": "fp64"},
        {"max_batch_size": 0},
        {"skip_nan_loss_max_count": 0},
        {"max_epoch": 3},
    ],
    ids=str,
)
def test_values_out_of_range_and_unknown_keys_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValidationError) as caught:
        config(**{"max_epochs": 1, **settings})
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]


def test_callbacks_get_the_config_of_their_kind() -> None:
    table = {"kind": "checkpoint", "every_n_epochs": 1}
    (found,) = config(max_epochs=1, callbacks=[table]).callbacks or []
    assert isinstance(found, CheckpointCallbackConfig)


def test_an_error_in_a_callback_is_placed_in_its_table() -> None:
    tables = [{"kind": "lr", "every_n_epochs": 1}, {"kind": "checkpoint", "every_n_epochs": 0}]
    with pytest.raises(ValidationError) as caught:
        config(max_epochs=1, callbacks=tables)
    assert [error["loc"] for error in caught.value.errors()] == [("callbacks", 1, "every_n_epochs")]


def test_a_config_without_brackets_has_any_callbacks_for_type_checkers() -> None:
    (parameter,) = BaseTrainerConfig.__parameters__  # type: ignore[attr-defined]  # pydantic has it
    assert parameter.__default__ is CallBackBaseConfig
