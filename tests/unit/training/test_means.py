"""Accumulation steps and batches of an evaluation, put together, are the one large batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from noether.config.components import ModelBaseConfig
from noether.core.models.base import ModelBase
from noether.data.samplers import TRAINING, TaggedBatch
from noether.testing import make_callback, make_data, make_trainer
from noether.training.nonfinite import FiniteGuard
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.torch_losses import TorchLoss
from noether.training.trainers.types import Counted, TrainerResult
from noether.training.update import Precision, Update

SAMPLES, POINTS, CLASSES = 12, 4, 3
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0])


class TwoHeads(ModelBase):
    """Maps `x` (batch, points, 2) to the logits `a` (batch, classes, points) and the values `b` (batch, points, 2)."""

    def __init__(self) -> None:
        super().__init__(ModelBaseConfig(kind="TwoHeads", optimizer={"kind": "SGD", "lr": 0.1}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.b, self.unused = nn.Linear(2, CLASSES), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.a(x).movedim(-1, 1), "b": self.b(x)}


def batch_of(seed: int, ignored: float, valid: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (SAMPLES, POINTS), generator=generator)
    return {
        "x": torch.randn(SAMPLES, POINTS, 2, generator=generator),
        "a_target": labels.where(torch.rand(labels.shape, generator=generator) >= ignored, -100),
        "b_target": torch.randn(SAMPLES, POINTS, 2, generator=generator),
        "mask": torch.rand(SAMPLES, POINTS, generator=generator) < valid,
    }


def compared(function: Any, field: str, batch: dict[str, Tensor], outputs: dict[str, Tensor], *, masked: bool) -> Any:
    loss = TorchLoss.of(function)
    assert loss is not None
    return loss(outputs[field], batch[f"{field}_target"], batch["mask"] if masked else None)


def counted_by_hand(batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> Counted:
    valid = batch["a_target"] != -100
    return Counted(outputs["b"].square().mean(-1)[valid].mean(), valid.sum())


weighted_classes = partial(F.cross_entropy, weight=CLASS_WEIGHTS)
summed = partial(F.mse_loss, reduction="sum")
LOSSES: dict[str, Any] = {
    "ignored": lambda b, o: {"a": compared(F.cross_entropy, "a", b, o, masked=False)},
    "class weights": lambda b, o: {"a": compared(weighted_classes, "a", b, o, masked=False)},
    "ignored and masked": lambda b, o: {"a": compared(weighted_classes, "a", b, o, masked=True)},
    "masked": lambda b, o: {"b": compared(F.l1_loss, "b", b, o, masked=True)},
    "a sum": lambda b, o: {"b": compared(summed, "b", b, o, masked=False)},
    "a masked sum": lambda b, o: {"b": compared(summed, "b", b, o, masked=True)},
    "a module": lambda b, o: {"a": compared(nn.CrossEntropyLoss(CLASS_WEIGHTS), "a", b, o, masked=False)},
    "its own count": lambda b, o: counted_by_hand(b, o),
    "two counts": lambda b, o: {
        "a": compared(F.cross_entropy, "a", b, o, masked=False),
        "b": 0.5 * compared(F.mse_loss, "b", b, o, masked=True),
    },
    "one count of two": lambda b, o: {
        "a": compared(F.cross_entropy, "a", b, o, masked=False),
        "b": F.mse_loss(o["b"], b["b_target"]),
        "off": 0.0,
        "sum": 0.1 * compared(summed, "b", b, o, masked=False),
    },
}


def gradients(form: str, batches: list[dict[str, Tensor]]) -> tuple[dict[str, Tensor], bool]:
    """Return the gradients of one update in as many accumulation steps, and True if it was applied."""
    model, found = TwoHeads(), {}
    model.initialize_optimizer(total_updates=1, updates_per_epoch=1)

    def step(batch: dict[str, Tensor], model: nn.Module) -> TrainerResult:
        return TrainerResult.of(LOSSES[form](batch, model(batch["x"])))

    guard = FiniteGuard(skip=True, max_in_a_row=9)
    update = Update(step, Precision("fp32", torch.device("cpu")), guard, accumulation_steps=len(batches))

    def look(model: ModelBase) -> None:
        found.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    update.begin(model, model, before_optimizer_step=look)
    _, _, applied = update(iter([TaggedBatch(TRAINING, 0, batch) for batch in batches]))
    return found, bool(applied)


def cut(batch: dict[str, Tensor], steps: int) -> list[dict[str, Tensor]]:
    return [{name: value.chunk(steps)[step] for name, value in batch.items()} for step in range(steps)]


random_batches = st.builds(
    batch_of, st.integers(0, 999), st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.sampled_from([1.0, 0.5, 0.1])
)


@settings(max_examples=25)
@pytest.mark.parametrize("form", LOSSES)
@given(batch=random_batches, steps=st.sampled_from([2, 3, 12]))
def test_accumulated_gradients_are_those_of_the_whole_batch(form: str, batch: dict[str, Tensor], steps: int) -> None:
    whole, applied = gradients(form, [batch])
    parts, parts_applied = gradients(form, cut(batch, steps))
    assert parts_applied is applied
    if applied:
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=5e-5)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseTrainer]:
    yield make_trainer(tmp_path_factory.mktemp("run"), data=make_data())


@settings(max_examples=25)
@pytest.mark.parametrize("form", LOSSES)
@given(batch=random_batches, sizes=st.lists(st.integers(1, 5), min_size=3, max_size=6))
def test_the_evaluation_loss_is_that_of_the_whole_data_set(
    form: str, batch: dict[str, Tensor], sizes: list[int], trainer: BaseTrainer
) -> None:
    model = TwoHeads()
    trainer.train_step = lambda batch, model: LOSSES[form](batch, model(batch["x"]))  # type: ignore[method-assign]
    callback = make_callback({"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}, trainer)
    sizes = [*sizes, SAMPLES - sum(sizes)] if sum(sizes) < SAMPLES else [4, 4, 4]
    parts = zip(*(value.split(sizes) for value in batch.values()), strict=True)
    batches = [dict(zip(batch, part, strict=True)) for part in parts]
    logged = [evaluated(callback, model, these) for these in ([batch], batches)]
    torch.testing.assert_close(logged[1], logged[0], rtol=1e-5, atol=1e-7, equal_nan=True)


@torch.no_grad()
def evaluated(callback: Any, model: nn.Module, batches: list[dict[str, Tensor]]) -> dict[str, float]:
    from noether.core.callbacks.evaluation import put_together

    callback.process_results(put_together([callback.process_data(batch, trainer_model=model) for batch in batches]))
    found = {key: callback.writer.current(key) for key in callback.writer.keys()}  # noqa: SIM118 -- not a mapping
    callback.writer.discard()
    return found
