"""fp16 and bf16: gradients are unscaled before they are read, in every part of a model, evaluation included."""

import pytest
import torch
from safetensors.torch import load
from torch import nn

from noether.core.models.base import ModelBase
from noether.core.models.composite import CompositeModel
from noether.errors import SpecError
from noether.testing import make_model, make_trainer
from noether.training.nonfinite import FiniteGuard
from noether.training.trainers import TrainerResult, WeightedLossTrainer
from noether.training.update import Precision, Update

SCALE = 1024.0
SGD = {"kind": "SGD", "lr": 0.1}
FIXED = {"kind": "lab.models.FixedParts", "encoder": {"optimizer": {**SGD, "clip_grad_norm": 0.5}}, "optimizer": SGD}
STRAIGHT = {"fp32": 1e-6, "bf16": 0.05, "fp16": 0.01}
"""How far a number may be from that of float32, relatively."""


class Chain(CompositeModel):
    def forward(self, x):
        return self.decoder(x=self.encoder(x=x)["y"])


def chain(**encoder):
    parts = {
        "encoder": make_model(seed=1, **{"optimizer": {**SGD, "clip_grad_norm": 0.5}, **encoder}),
        "decoder": make_model(seed=2, in_features={"x": 2}, optimizer={"kind": "AdamW", "lr": 0.01}),
    }
    model = Chain(parts=parts)
    model.initialize_optimizer(total_updates=10, updates_per_epoch=5)
    return model


class Updates:
    """Return an update with a scaler of a chosen scale, and the gradients that `before_optimizer_step` sees."""

    def __init__(self, precision: str, scale: float = SCALE):
        self.precision = Precision(precision, torch.device("cpu"))
        if self.precision.scaler is not None:
            self.precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        self.guard = FiniteGuard(skip=True, max_in_a_row=100)
        self.update = Update(self.train_step, self.precision, self.guard)
        self.gradients: list[torch.Tensor] = []

    def train_step(self, batch: torch.Tensor, model: nn.Module) -> TrainerResult:
        return TrainerResult(model(x=batch)["y"].square().mean())

    def look(self, model: ModelBase) -> None:
        self.gradients = [gradient.clone() for gradient in model.gradients()]

    def __call__(self, model: ModelBase, *batches: torch.Tensor) -> None:
        self.update.begin(model, model, before_optimizer_step=self.look)
        for index, batch in enumerate(batches):
            self.update.accumulate(batch, model, model, len(batches), index)


def batch():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(5))


def close(found, expected, precision):
    tolerance = STRAIGHT[precision]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("steps", [1, 2])
def test_every_part_is_unscaled_with_the_same_scale(precision, steps):
    models, updates = (chain(), chain()), (Updates("fp32"), Updates(precision))
    for update, model in zip(updates, models, strict=True):
        update(model, *batch().chunk(steps))
    expected, found = updates
    assert len(found.gradients) == len(list(models[0].parameters()))
    close(found.gradients, expected.gradients, precision)
    close(models[1].state_dict(), models[0].state_dict(), precision)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_norm_that_is_clipped_and_logged_is_that_of_the_unscaled_gradients_of_a_part(precision, steps):
    model, update = chain(), Updates(precision)
    size = len(list(model.get_submodule("encoder").parameters()))
    update(model, *batch().chunk(steps))
    optimizers = model.optimizers()
    seen = torch.cat([gradient.flatten() for gradient in update.gradients[:size]]).norm()
    torch.testing.assert_close(optimizers["encoder"].last_grad_norm, seen)
    assert optimizers["decoder"].last_grad_norm is None


def test_an_overflow_in_one_part_leaves_all_parts_as_they_are_and_lowers_the_scale():
    model, update = chain(), Updates("fp16", scale=2.0**40)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    update(model, batch())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert update.precision.scaler.get_scale() == 2.0**39
    assert model.gradients() == []


def test_a_part_that_the_loss_does_not_reach_is_left_alone():
    class Sometimes(Chain):
        def forward(self, x):
            return self.encoder(x=x)

    model = Sometimes(parts=dict(chain().submodels))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Updates("fp16")(model, batch())
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"encoder"}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_composite_trained_in_half_precision_follows_the_one_in_full(finish, final_weights, lab, precision, steps):
    changes = {"model": FIXED, "trainer.max_batch_size": 8 // steps}
    full, half = (finish({**changes, "trainer.precision": name}) for name in ("fp32", precision))
    expected, found = load(final_weights(full)), load(final_weights(half))
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0.05, atol=0.02)
    key = "optim/grad_norm/encoder"
    assert half.metrics[key] == pytest.approx(full.metrics[key], rel=0.1)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_evaluation_runs_in_the_precision_of_training(finish, final_weights, precision):
    watch = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    changes = {"trainer.callbacks": [watch], "trainer.max_epochs": 0}
    full, half = (
        finish({**changes, "trainer.precision": name}).metrics["loss/test/total"] for name in ("fp32", precision)
    )
    assert half == pytest.approx(full, rel=0.05)
    assert half != full


def test_a_format_that_the_device_lacks_is_an_error_before_training(tmp_path):
    known = make_trainer(tmp_path)
    with pytest.raises(SpecError) as found:
        WeightedLossTrainer(
            known.config.model_copy(update={"precision": "fp16"}),
            data_container=known.data_container,
            device="meta",
            tracker=known.tracker,
            path_provider=known.path_provider,
        )
    assert "'fp16'" in str(found.value)
    assert "meta" in str(found.value)
    assert "fp32" in found.value.hint
