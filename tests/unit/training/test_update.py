"""One update as an object, without a trainer."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noether.core.models.base import ModelBase
from noether.data.samplers import TRAINING, TaggedBatch
from noether.errors import TrainingError
from noether.testing import make_model
from noether.training.nonfinite import FiniteGuard
from noether.training.trainers.types import TrainerResult
from noether.training.update import Precision, Update


def squared(batch: dict[str, Tensor], model: nn.Module) -> TrainerResult:
    return TrainerResult(model(x=batch["x"])["y"].square().mean())


def model_with_optimizer() -> ModelBase:
    model = make_model()
    model.initialize_optimizer(total_updates=10, updates_per_epoch=5)
    return model


def update_of(steps: int = 1, **settings: Any) -> Update:
    guard = FiniteGuard(skip=True, max_in_a_row=100)
    return Update(squared, Precision("fp32", torch.device("cpu")), guard, accumulation_steps=steps, **settings)


def batches(*values: Tensor) -> Iterator[TaggedBatch]:
    return iter([TaggedBatch(TRAINING, 0, {"x": value}) for value in values])


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(5))


def test_accumulation_steps_make_the_update_of_the_whole_batch() -> None:
    models = [model_with_optimizer(), model_with_optimizer()]
    for model, steps in zip(models, (1, 2), strict=True):
        update = update_of(steps)
        update.begin(model, model)
        _, _, applied = update(batches(*X.chunk(steps)))
        assert applied is True
        assert all(parameter.grad is None for parameter in model.parameters())
    one, two = (model.state_dict() for model in models)
    torch.testing.assert_close(one, two)
    assert not torch.equal(one["layers.0.weight"], make_model().state_dict()["layers.0.weight"])


def test_the_callables_are_called_after_each_step_and_before_the_optimizer() -> None:
    model, calls = model_with_optimizer(), []
    weight = next(model.parameters())
    before = weight.detach().clone()

    def look(model: ModelBase) -> None:
        calls.append(("before", torch.equal(weight, before), weight.grad is not None))

    def after(batch: Any, losses: dict[str, Tensor], outputs: Any, total: int, index: int) -> None:
        calls.append((index, total, update.last_loss is losses["total"], losses["total"].requires_grad))

    update = update_of(2)
    update.begin(model, model, before_optimizer_step=look, after_step=after)
    update(batches(*X.chunk(2)))
    assert calls == [(0, 2, True, False), ("before", True, True), (1, 2, True, False)]


def test_no_batch_outlives_its_accumulation_step() -> None:
    model, kept, alive = model_with_optimizer(), [], []

    def stream() -> Iterator[TaggedBatch]:
        for value in X.clone().chunk(3):
            batch = {"x": value.clone()}
            kept.append(weakref.ref(batch["x"]))
            yield TaggedBatch(TRAINING, 0, batch)

    def after(batch: Any, *_: Any) -> None:
        alive.append(sum(ref() is not None for ref in kept[:-1]))

    update = update_of(2)
    update.begin(model, model, after_step=after)
    update(stream())
    assert alive == [0, 0]
    assert [ref() for ref in kept] == [None, None]


def test_a_non_finite_update_is_not_applied_and_said_so() -> None:
    model, called = model_with_optimizer(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    update = update_of(2)
    update.begin(model, model, after_step=lambda *arguments: called.append(arguments[-1]))
    bad = torch.full((2, 3), float("inf"))
    _, _, applied = update(batches(X[:2], bad))
    assert applied is False
    assert called == [0, 1]
    assert update.applied == 0.0
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_learning_rates_are_those_of_the_groups_when_it_is_called() -> None:
    model = model_with_optimizer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (optimizer,) = model.optimizers().values()
    update = update_of()
    update.begin(model, model)
    optimizer.torch_optimizer.param_groups[0]["lr"] = 0.0
    update(batches(X))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_unread_batches_of_an_evaluation_are_skipped() -> None:
    model, seen = model_with_optimizer(), []
    update = update_of(to_device=lambda batch: seen.append(batch) or batch)
    update.begin(model, model)
    update(iter([TaggedBatch(TRAINING + 1, 0, {"x": X[:1]}), TaggedBatch(TRAINING, 0, {"x": X})]))
    assert [len(batch["x"]) for batch in seen] == [4]


@pytest.mark.parametrize("part", ["data_time", "forward_time", "backward_time", "update_time"])
def test_it_measures_its_parts(part: str) -> None:
    model, update = model_with_optimizer(), update_of(2)
    update.begin(model, model)
    update(batches(*X.chunk(2)))
    assert update.times[part] >= 0


def without_graph(batch: dict[str, Tensor], model: nn.Module) -> TrainerResult:
    return TrainerResult.of({"frozen": squared(batch, model).total_loss.detach()})


def not_reduced(batch: dict[str, Tensor], model: nn.Module) -> TrainerResult:
    return TrainerResult(model(x=batch["x"])["y"], {"raw": model(x=batch["x"])["y"]})


@pytest.mark.parametrize(("step", "name"), [(without_graph, "'frozen'"), (not_reduced, "'raw' of (4, 2)")])
def test_a_loss_that_no_backward_pass_can_begin_on_is_named(step: Any, name: str) -> None:
    model, update = model_with_optimizer(), update_of()
    update.train_step = step
    update.begin(model, model)
    with pytest.raises(TrainingError) as caught:
        update(batches(X))
    assert name in caught.value.message


def test_losses_that_cannot_be_added_are_named() -> None:
    model, update = model_with_optimizer(), update_of()
    update.train_step = (
        lambda batch, model: {  # type: ignore[assignment, return-value]  # a trainer may return this
            "three": model(x=batch["x"])["y"][:3, 0],
            "four": model(x=batch["x"])["y"][:, 0],
        }
    )
    update.begin(model, model)
    with pytest.raises(TrainingError) as caught:
        update(batches(X))
    assert "'three' of (3,), 'four' of (4,)" in caught.value.message


def test_an_error_while_losses_are_added_stays_what_it_is() -> None:
    class Odd(Tensor):
        def __add__(self, other: Any) -> Tensor:
            raise RuntimeError("no device has this sum")

    model, update = model_with_optimizer(), update_of()
    update.train_step = lambda batch, model: {  # type: ignore[assignment, return-value]  # as above
        "odd": torch.ones(()).as_subclass(Odd),
        "y": model(x=batch["x"])["y"].mean(),
    }
    update.begin(model, model)
    with pytest.raises(RuntimeError, match="no device has this sum"):
        update(batches(X))


def test_an_error_of_the_model_stays_what_it_is() -> None:
    model, update = model_with_optimizer(), update_of()
    update.train_step = lambda batch, model: model(x=batch["x"] @ batch["x"])
    update.begin(model, model)
    with pytest.raises(RuntimeError) as caught:
        update(batches(X))
    assert not isinstance(caught.value, TrainingError)


def test_a_train_step_may_return_what_a_loss_may_be_and_numbers_beside_it() -> None:
    model, update, seen = model_with_optimizer(), update_of(2), []
    update.train_step = lambda batch, model: (
        {"y": squared(batch, model).total_loss, "off": 0.0},
        {"factor": 0.5, "none": None},
    )
    update.begin(model, model, after_step=lambda batch, losses, outputs, *_: seen.append((losses, outputs)))
    update(batches(*X.chunk(2)))
    losses, outputs = seen[-1]
    assert losses["total"] == losses["y"]
    assert losses["off"] == 0.0
    assert outputs == {"factor": 0.5}


def test_a_mean_over_samples_beside_steps_with_a_count_has_its_share() -> None:
    """The first accumulation step has no count, the second has one: each has the share that it would have alone."""
    models = [model_with_optimizer(), model_with_optimizer()]
    for model, counts in zip(models, [(None, None), (None, "sum")], strict=True):
        given = iter(counts)

        def counted(batch: Any, model: nn.Module, given: Any = given) -> TrainerResult:
            count = next(given)
            total = squared(batch, model).total_loss
            return TrainerResult(total / 2 if count else total, count=count)

        update = update_of(2)
        update.train_step = counted
        update.begin(model, model)
        update(batches(*X.chunk(2)))
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize(
    "replaced",
    [
        lambda gradient: gradient.t().contiguous().t(),
        lambda gradient: gradient.mean().expand_as(gradient).clone(),
        lambda gradient: gradient.mean().expand_as(gradient),
        lambda gradient: None,
    ],
    ids=["in another order", "clone of an expanded one", "expanded", "none"],
)
@pytest.mark.parametrize("first", [0, 1])
def test_gradients_that_a_callback_replaces_are_applied_as_they_are(kind: str, replaced: Any, first: int) -> None:
    models = []
    for fused in (None, False):
        options = {"kind": kind, "lr": 0.1} | ({} if fused is None else {"fused": fused})
        model, done = make_model(optimizer=options), iter(range(3))
        model.initialize_optimizer(total_updates=10, updates_per_epoch=5)

        def replace(model: ModelBase, done: Iterator[int] = done) -> None:
            if next(done) >= first:
                weight = next(model.parameters())
                assert weight.grad is not None
                weight.grad = replaced(weight.grad)

        update = update_of()
        update.begin(model, model, before_optimizer_step=replace)
        for _ in range(3):
            update(batches(X))
        models.append(model)
    chosen, plain = (model.state_dict() for model in models)
    torch.testing.assert_close(chosen, plain)
