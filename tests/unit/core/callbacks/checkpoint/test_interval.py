"""Checkpoints at an interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from noether.checkpoint.save import SaveRequest
from noether.core.callbacks.checkpoint.saving import CheckpointCallbackConfig
from noether.core.models.composite import CompositeModel
from noether.errors import SpecError
from noether.testing import make_callback, make_counter, make_model, make_trainer


def requested(folder: Path, model: Any = None, *, interval_type: str = "epoch", **settings: Any) -> SaveRequest | None:
    """Return the callback's request when its interval fires."""
    table = {"kind": "checkpoint", "every_n_epochs": 1, **settings}
    callback = make_callback(table, make_trainer(folder), model)
    callback.before_training(update_counter=make_counter())
    callback.periodic_callback(interval_type=interval_type, update_counter=make_counter(update=6))
    pending: SaveRequest | None = callback.checkpoint_writer.pending
    return pending


def test_by_default_a_save_can_be_resumed_from(tmp_path: Path) -> None:
    found = requested(tmp_path)
    assert found is not None and found.is_whole


@pytest.mark.parametrize(
    ("settings", "weights", "optimizer"),
    [
        ({"save_optim": False, "save_latest_optim": False}, True, False),
        ({"save_latest_weights": False, "save_latest_optim": False}, True, True),
        ({"save_weights": False, "save_latest_weights": False}, False, True),
        ({"save_weights": False, "save_optim": False}, True, True),
    ],
    ids=str,
)
def test_flags_say_what_a_save_holds(settings: dict[str, bool], weights: bool, optimizer: bool, tmp_path: Path) -> None:
    found = requested(tmp_path, **settings)
    assert found is not None and (found.weights, found.optimizer) == (weights, optimizer)


def test_evaluation_saves_nothing(tmp_path: Path) -> None:
    assert requested(tmp_path, interval_type="eval") is None


def test_the_end_of_the_run_is_saved_as_last(tmp_path: Path) -> None:
    callback = make_callback({"kind": "checkpoint", "every_n_epochs": 1}, make_trainer(tmp_path))
    callback.after_training(update_counter=make_counter(update=12))
    assert list(callback.checkpoint_writer.pending.names) == ["last"]


def composite() -> CompositeModel:
    return CompositeModel(parts={"encoder": make_model(), "decoder": make_model()})


def test_a_part_can_be_saved_alone(tmp_path: Path) -> None:
    found = requested(tmp_path, composite(), model_names=["encoder"])
    assert found is not None and found.model_names == {"encoder"}


@pytest.mark.parametrize(
    ("model", "names"), [(composite, ["decoder", "encoder"]), (make_model, ["model"])], ids=["composite", "plain"]
)
def test_naming_every_part_is_saving_the_whole_model(model: Any, names: list[str], tmp_path: Path) -> None:
    found = requested(tmp_path, model(), model_names=names)
    assert found is not None and found.model_names is None


def test_a_part_that_does_not_exist_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        requested(tmp_path, composite(), model_names=["encoder", "head"])
    assert "['head']" in caught.value.message
    assert "encoder, decoder" in str(caught.value)


def test_saving_nothing_is_refused() -> None:
    flags = dict.fromkeys(("save_weights", "save_optim", "save_latest_weights", "save_latest_optim"), False)
    with pytest.raises(ValidationError) as error:
        CheckpointCallbackConfig(**flags)
    assert "save_weights = true" in str(error.value)
