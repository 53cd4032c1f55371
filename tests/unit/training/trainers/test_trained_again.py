"""A trainer that is used more than once goes on with what it has trained."""

from pathlib import Path

import pytest
import torch

from noether.core.callbacks.base import CallbackBase
from noether.core.initializers.resume import ResumeInitializer, ResumeInitializerConfig
from noether.core.initializers.weights import CheckpointInitializer, CheckpointInitializerConfig, InitializerBase
from noether.core.models.base import ModelBase
from noether.testing.builders import make_model, make_trainer
from noether.training.trainers.types import TrainerResult


def weights(model: ModelBase) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(params=["checkpoint", "resume"])
def initializer(request: pytest.FixtureRequest, tmp_path: Path) -> InitializerBase:
    """An initializer from a run of one epoch."""
    make_trainer(tmp_path / "source", max_epochs=1).train(make_model(seed=5))
    path = str(tmp_path / "source" / "test-run")
    if request.param == "resume":
        return ResumeInitializer(ResumeInitializerConfig(path=path))
    return CheckpointInitializer(CheckpointInitializerConfig(path=path))


@pytest.mark.parametrize("again", ["train", "eval"])
def test_an_initializer_does_not_take_back_what_was_trained(
    initializer: InitializerBase, again: str, tmp_path: Path
) -> None:
    trainer, model = make_trainer(tmp_path), make_model()
    trainer.initializer = initializer
    trainer.train(model)
    trained, update = weights(model), trainer.update_counter.update
    getattr(trainer, again)(model)
    assert same(trained, weights(model))
    assert trainer.update_counter.update == update == 12


def test_an_initializer_is_called_for_each_model(tmp_path: Path) -> None:
    make_trainer(tmp_path / "source", max_epochs=1).train(source := make_model(seed=5))
    trainer = make_trainer(tmp_path, max_updates=0)
    trainer.initializer = CheckpointInitializer(CheckpointInitializerConfig(path=str(tmp_path / "source" / "test-run")))
    for model in (make_model(), make_model(seed=2)):
        trainer.eval(model)
        assert same(weights(source), weights(model))


class FailsOnce(CallbackBase):
    """Raises in the first update, in the middle of it or when its gradients are unscaled."""

    places: list[str]

    def before_optimizer_step(self) -> None:
        self.fail("before_optimizer_step")

    def track_after_accumulation_step(self) -> None:
        self.fail("track_after_accumulation_step")

    def fail(self, place: str) -> None:
        if place in self.places:
            self.places.remove(place)
            raise RuntimeError(place)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("place", ["track_after_accumulation_step", "before_optimizer_step"])
def test_an_update_that_failed_leaves_nothing_to_the_next_one(place: str, precision: str, tmp_path: Path) -> None:
    def trained(folder: Path, places: list[str]) -> dict[str, torch.Tensor]:
        trainer, model = make_trainer(folder, max_batch_size=2, max_updates=3, precision=precision), make_model()
        callback = FailsOnce(**trainer.callback_default_kwargs(model))
        callback.id, callback.places = "fails-once", places
        monkeypatch.setattr(trainer, "get_all_callbacks", lambda model: [callback])
        if places:
            with pytest.raises(RuntimeError, match=place):
                trainer.train(model)
            assert trainer.update_counter.update == 0
        trainer.train(model)
        return weights(model)

    with pytest.MonkeyPatch.context() as monkeypatch:
        assert same(trained(tmp_path / "whole", []), trained(tmp_path / "again", [place]))


def test_a_train_step_of_the_instance_is_the_one_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, model = make_trainer(tmp_path, max_updates=2), make_model()
    usual, batches = trainer.train_step, []

    def train_step(batch: dict[str, torch.Tensor], model: torch.nn.Module) -> TrainerResult:
        batches.append(batch)
        return usual(batch, model)

    monkeypatch.setattr(trainer, "train_step", train_step)
    trainer.train(model)
    assert len(batches) == 2
