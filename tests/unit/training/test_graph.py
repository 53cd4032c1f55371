"""Updates as graphs: order of work, hooks after the replay, shapes, and the reasons to go on eagerly."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noether.core.models.agreement import unfreeze
from noether.core.models.base import ModelBase
from noether.data.samplers import TRAINING, TaggedBatch
from noether.testing import RecordingDevice, make_model
from noether.training.another_form import MOST_SHAPES
from noether.training.graph import WARM_UPS, GraphUpdate
from noether.training.nonfinite import DeviceGuard
from noether.training.precision import Precision
from noether.training.trainers.types import TrainerResult
from noether.training.update import Update

REHEARSAL = [*["aside", "back"] * WARM_UPS, "capture", "replay", "replay"]
WARM = ["aside", "back"] * WARM_UPS
Step = Callable[[dict[str, Any], nn.Module], TrainerResult]
pytestmark = pytest.mark.usefixtures("graphs_on_cpu")


class Net(ModelBase):
    """A linear map with dropout, a frozen part, and whatever a test hangs on it."""

    def __init__(self) -> None:
        super().__init__(make_model(optimizer={"kind": "AdamW", "lr": 0.01}).model_config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.first, self.drop, self.last = nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 2)
        self.first.bias.requires_grad_(False)
        self.calls = 0
        self.seen: list[int] = []
        self.own = torch.Generator().manual_seed(5)
        self.state = torch.zeros(())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.last(self.drop(self.first(x)))}


def squared(batch: dict[str, Any], model: nn.Module) -> TrainerResult:
    output = model(x=batch["x"])["y"]
    return TrainerResult(output.square().mean(), additional_outputs={"y": output, "rows": len(output)})


class Runs:
    """The same updates by graphs and eagerly; `log` has the lines of the former."""

    def __init__(self, step: Step = squared, *, steps: int = 1, after_step: Any = None, **begin: Any) -> None:
        self.device = RecordingDevice()
        self.models = Net(), Net()
        self.updates: list[Update] = []
        for model, form in zip(self.models, ("graph", "eager"), strict=True):
            model.initialize_optimizer(total_updates=90, updates_per_epoch=5)
            guard = DeviceGuard(skip=True, max_in_a_row=100)
            update = Update(step, Precision("fp32", torch.device("cpu")), guard, accumulation_steps=steps)
            update = GraphUpdate(update, self.device) if form == "graph" else update
            update.begin(model, model, after_step=after_step, **begin)
            self.updates.append(update)
        self.graph = self.updates[0]
        assert isinstance(self.graph, GraphUpdate)

    def go(self, *sizes: int, change: Callable[[ModelBase], object] | None = None, extra: Any = None) -> None:
        """Do one update of each form for each size; call `change` on both models before."""
        for model, update in zip(self.models, self.updates, strict=True):
            if change is not None:
                change(model)
                update.look_again()
            torch.manual_seed(len(sizes))
            values = torch.Generator().manual_seed(3)
            for size in sizes:
                made = [torch.randn(size, 3, generator=values) for _ in range(update.accumulation_steps)]
                batches = [{"x": x} if extra is None else {"x": x, "n": extra()} for x in made]
                with torch.no_grad():
                    update(iter([TaggedBatch(TRAINING, 0, batch) for batch in batches]))

    def are_equal(self) -> bool:
        """Compare weights, and the state of the optimizers."""
        one, other = (
            [*model.state_dict().values(), *model.optimizers()["model"].state_tensors().values()]
            for model in self.models
        )
        return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.fixture
def reasons(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the lines that say why updates are eager, without their beginning."""
    caplog.set_level(logging.WARNING, "noether.trainers")
    begin = "updates are eager, not graph: "

    def found() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if record.name == "noether.trainers"]
        assert all(line.startswith(begin) for line in lines)
        return [line.removeprefix(begin) for line in lines]

    return found


def test_a_rehearsal_then_warm_ups_on_a_side_stream_then_a_capture_then_replays() -> None:
    runs = Runs()
    runs.go(*[4] * (WARM_UPS + 2))
    assert runs.device.calls == [*REHEARSAL, *WARM, "capture", "replay", "replay"]
    assert runs.are_equal()


def test_a_rehearsal_leaves_no_trace() -> None:
    runs = Runs()
    model = runs.models[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    runs.graph._prepared("shape", [{"x": torch.ones(4, 3)}], [torch.ones(4, 3)])
    assert runs.device.calls == REHEARSAL
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.optimizer.torch_optimizer.state
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_hooks_of_accumulation_steps_are_called_in_order_after_the_replay_with_what_it_left() -> None:
    calls: list[Any] = []

    def after(batch: Any, losses: dict[str, Tensor], outputs: Any, total: int, index: int) -> None:
        runs_now = runs.updates[0]
        calls.append((index, total, batch, losses["total"], outputs["y"], runs.device.calls[-1:], runs_now.last_loss))

    runs = Runs(steps=2, after_step=after)
    runs.go(*[4] * 7)
    by_graph, eager = calls[:14], calls[14:]
    assert [call[:2] for call in by_graph] == [(0, 2), (1, 2)] * 7
    assert [call[5] for call in by_graph[2 * WARM_UPS :]] == [["replay"]] * 8
    assert all(call[6] is call[3] for call in by_graph)
    for one, other in zip(by_graph, eager, strict=True):  # read at the end: later replays have left them alone
        assert torch.equal(one[2]["x"], other[2]["x"])
        assert torch.equal(one[3], other[3])
        assert torch.equal(one[4], other[4])
    assert runs.are_equal()


def test_an_odd_last_batch_runs_eagerly_between_replays() -> None:
    runs = Runs()
    runs.go(4, 4, 4, 4, 4, 2, 4, 4, 3, 4)
    calls = runs.device.calls[len(REHEARSAL) + len(WARM) :]
    assert calls == ["capture", "replay", "replay", "aside", "back", "replay", "replay", "aside", "back", "replay"]
    assert runs.are_equal()


def test_each_shape_that_stays_gets_a_graph_up_to_a_bound(reasons: Callable[[], list[str]]) -> None:
    runs = Runs()
    runs.go(*[size for size in range(2, MOST_SHAPES + 4) for _ in range(WARM_UPS + 2)])
    assert runs.device.calls.count("capture") == 2 * MOST_SHAPES  # each is rehearsed as well
    assert runs.are_equal()
    assert reasons() == []


def test_learning_rates_are_read_by_each_replay() -> None:
    runs = Runs()
    runs.go(4, 4, 4, 4)

    def other(model: Any) -> None:
        model.optimizer.torch_optimizer.param_groups[0]["lr"] = 0.005

    runs.go(4, 4, change=other)
    assert runs.device.calls[-2:] == ["replay", "replay"]
    assert runs.are_equal()


def in_a_tensor(model: Any) -> None:
    model.optimizer.torch_optimizer.param_groups[0]["lr"] = torch.tensor(0.25)


def replaced(model: Any) -> None:
    old, model.last = model.last, nn.Linear(4, 2)
    model.last.weight, model.last.bias = old.weight, old.bias


def in_other_memory(model: Any) -> None:
    model.last.weight.data = model.last.weight.data.clone()


def reloaded(model: Any) -> None:
    optimizer = model.optimizer.torch_optimizer
    optimizer.load_state_dict(optimizer.state_dict())


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "a module is replaced": (replaced, "module 'last' changed"),
    "a weight moves": (in_other_memory, "parameter 'weight' of module 'last' changed"),
    "a weight is frozen": (lambda m: m.last.bias.requires_grad_(False), "parameter 'bias' of module 'last' changed"),
    "dropout changes": (lambda m: setattr(m.drop, "p", 0.5), "attribute 'p' of module 'drop' changed"),
    "a module is in another mode": (lambda m: m.drop.eval(), "the mode of module 'drop' changed"),
    "a forward hook": (lambda m: m.last.register_forward_hook(lambda *_: None), "module 'last' has hooks"),
    "unfreezing": (
        lambda m: unfreeze(m, "first.bias", span=(90, 5), lr=0.5, weight_decay=None),
        "parameter 'bias' of module 'first' changed",
    ),
    "another option": (
        lambda m: m.optimizer.torch_optimizer.param_groups[0].update(betas=(0.5, 0.5)),
        "parameter group 1 of AdamW changed",
    ),
    "another bound of gradients": (
        lambda m: setattr(m.optimizer, "clip_grad_norm", 0.1),
        "the clipping of AdamW changed",
    ),
    "another state": (reloaded, "AdamW"),
    "a hook on the optimizer step": (
        lambda m: m.optimizer.torch_optimizer.register_step_post_hook(lambda *_: None),
        "AdamW has hooks around its optimizer step",
    ),
    "a rate in a tensor": (in_a_tensor, "a learning rate is not a plain number"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=list(CHANGES))
def test_a_change_of_what_a_graph_has_baked_in_ends_the_graphs(
    reasons: Callable[[], list[str]], change: Callable[[Any], object], reason: str
) -> None:
    runs = Runs()
    runs.go(4, 4, 4, 4, 4)
    replays = runs.device.calls.count("replay")
    runs.go(4, 4, change=change)
    (line,) = reasons()
    assert reason in line
    assert runs.device.calls.count("replay") == replays
    assert runs.are_equal()


def test_a_change_before_a_graph_of_another_shape_ends_the_earlier_graph_too(reasons: Callable[[], list[str]]) -> None:
    runs = Runs()
    runs.go(*[4] * 5)
    runs.go(*[2] * 5, 4, change=lambda model: setattr(model.drop, "p", 0.5))
    (line,) = reasons()
    assert "attribute 'p' of module 'drop' changed" in line
    assert runs.are_equal()


def reads_its_loss(batch: dict[str, Any], model: nn.Module) -> TrainerResult:
    loss = squared(batch, model).total_loss
    return TrainerResult(loss if loss > 0.1 else 2 * loss)


def counts(batch: dict[str, Any], model: Any) -> TrainerResult:
    model.calls += 1
    return TrainerResult(squared(batch, model).total_loss * model.calls)


def remembers(batch: dict[str, Any], model: Any) -> TrainerResult:
    loss = squared(batch, model).total_loss + model.state * model.last.bias.sum()
    model.state = loss.detach()
    return TrainerResult(loss)


def draws(batch: dict[str, Any], model: nn.Module) -> TrainerResult:
    return TrainerResult(squared(batch, model).total_loss * random.random())


def draws_by_numpy(batch: dict[str, Any], model: nn.Module) -> TrainerResult:
    return TrainerResult(squared(batch, model).total_loss * float(np.random.rand()))


def copies_from_the_host(batch: dict[str, Any], model: nn.Module) -> TrainerResult:
    return TrainerResult(squared(batch, model).total_loss * torch.tensor(2.0))


def returns_an_object(batch: dict[str, Any], model: nn.Module) -> TrainerResult:
    return TrainerResult(squared(batch, model).total_loss, additional_outputs={"own": slice(1)})


def lists(batch: dict[str, Any], model: Any) -> TrainerResult:
    model.seen.append(1)
    return TrainerResult(squared(batch, model).total_loss * len(model.seen))


def draws_by_its_own(batch: dict[str, Any], model: Any) -> TrainerResult:
    return TrainerResult(squared(batch, model).total_loss * torch.rand((), generator=model.own))


STEPS: dict[str, tuple[Step, str]] = {
    "it fills a list": (lists, "attribute 'seen' of the model changes in an update"),
    "it draws by a generator of its own": (draws_by_its_own, "eager updates"),
    "it reads its loss": (reads_its_loss, "waits for the device"),
    "it counts its calls": (counts, "attribute 'calls' of the model changes in an update"),
    "it goes on from a tensor": (remembers, "a replay does not leave the bits of an eager update"),
    "it draws by Python": (draws, "the generator of Python is drawn from in an update"),
    "it draws by numpy": (draws_by_numpy, "the generator of numpy is drawn from in an update"),
    "it copies a number": (copies_from_the_host, "waits for the device"),
    "it returns an object": (returns_an_object, "the output 'own' is a slice"),
}


@pytest.mark.parametrize(("step", "reason"), STEPS.values(), ids=list(STEPS))
def test_an_update_that_does_not_fit_a_graph_is_eager_from_the_first_one_on(
    reasons: Callable[[], list[str]], step: Step, reason: str
) -> None:
    runs = Runs(step)
    generators = random.getstate(), np.random.get_state()
    runs.go(4)
    random.setstate(generators[0])
    np.random.set_state(generators[1])
    runs = Runs(step)
    for model, update in zip(runs.models, runs.updates, strict=True):
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.manual_seed(1)
        for _ in range(6):
            with torch.no_grad():
                update(iter([TaggedBatch(TRAINING, 0, {"x": torch.ones(4, 3)})]))
        assert model.calls in (0, 6)
    assert [reason in line for line in reasons()] == [True, True]
    assert runs.device.calls.count("capture") <= 1
    assert runs.are_equal()


def test_a_value_of_a_batch_that_is_not_a_tensor_ends_the_graphs_only_if_it_is_read(
    reasons: Callable[[], list[str]],
) -> None:
    numbers = iter(range(100))
    runs = Runs()
    runs.go(*[4] * 5, extra=lambda: next(numbers))
    assert "replay" in runs.device.calls[-1:]
    assert reasons() == []
    runs = Runs(lambda batch, model: TrainerResult(squared(batch, model).total_loss * batch["n"]))
    runs.go(*[4] * 5, extra=lambda: 2)
    assert reasons() == ["the train step reads a int of the batch, not a tensor"]
    assert runs.are_equal()


def test_an_error_of_the_train_step_is_raised_by_the_eager_update(reasons: Callable[[], list[str]]) -> None:
    def fails(batch: dict[str, Any], model: nn.Module) -> TrainerResult:
        raise ValueError("no such field")

    with pytest.raises(ValueError, match="no such field"):
        Runs(fails).go(4)
    assert reasons() == ["ValueError: no such field"]


def test_a_hook_that_reads_gradients_keeps_updates_eager(reasons: Callable[[], list[str]]) -> None:
    seen: list[bool] = []
    runs = Runs(before_optimizer_step=lambda model: seen.append(model.last.weight.grad is not None))
    runs.go(4, 4, 4, 4, 4)
    assert seen == [True] * 10
    assert runs.device.calls == ["aside", "back"]
    assert len(reasons()) == 1


def test_an_optimizer_that_takes_no_mask_keeps_updates_eager(reasons: Callable[[], list[str]]) -> None:
    def unfused(model: Any) -> None:
        model.optimizer.torch_optimizer.param_groups[0]["fused"] = False

    runs = Runs()
    for model, update in zip(runs.models, runs.updates, strict=True):
        unfused(model)
        update.take_optimizers(model)
    runs.go(*[4] * 6)
    assert len(reasons()) == 1
    assert runs.are_equal()


HOOKS: dict[str, Callable[[Any, Callable[..., None]], object]] = {
    "the optimizer step": lambda model, hook: model.optimizer.torch_optimizer.register_step_post_hook(hook),
    "a module": lambda model, hook: model.last.register_forward_hook(hook),
    "a gradient": lambda model, hook: model.last.weight.register_hook(hook),
    "a sum of gradients": lambda model, hook: model.last.weight.register_post_accumulate_grad_hook(hook),
}


@pytest.mark.parametrize("register", HOOKS.values(), ids=list(HOOKS))
def test_hooks_of_torch_keep_updates_eager_and_are_called_once_an_update(
    reasons: Callable[[], list[str]], register: Callable[[Any, Callable[..., None]], object]
) -> None:
    runs = Runs()
    called: list[int] = []
    for model in runs.models:
        register(model, lambda *_: called.append(1))
    runs.go(*[4] * 6)
    assert ["hook" in line for line in reasons()] == [True]
    assert len(called) == 2 * 6
    assert runs.are_equal()


@pytest.mark.parametrize("register", HOOKS.values(), ids=list(HOOKS))
def test_hooks_of_torch_that_are_added_later_end_the_graphs(
    reasons: Callable[[], list[str]], register: Callable[[Any, Callable[..., None]], object]
) -> None:
    runs = Runs()
    called: list[int] = []
    runs.go(*[4] * 6)
    runs.go(4, 4, change=lambda model: register(model, lambda *_: called.append(1)))
    assert len(reasons()) == 1
    assert len(called) == 2 * 2
    assert runs.are_equal()


class Wrapper(nn.Module):
    """Calls a model, as the wrappers of torch.compile and of several ranks do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.wrapped = model

    def forward(self, **batch: Any) -> Any:
        return self.wrapped(**batch)


class Scaled(Net):
    """Has a parameter and a buffer of its own, which none of its modules holds."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.passes += 1
        return {"y": super().forward(x)["y"] * self.scale}


def test_what_a_wrapped_model_holds_itself_is_put_back_after_a_rehearsal(
    reasons: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "Net", Scaled)
    runs = Runs()
    for model, update in zip(runs.models, runs.updates, strict=True):
        update.begin(model, Wrapper(model))
    runs.go(*[4] * 6)
    assert reasons() == []
    assert runs.device.calls[-1] == "replay"
    assert runs.are_equal()
    runs.go(4, 4, change=lambda model: setattr(model.scale, "requires_grad", False))
    (line,) = reasons()
    assert "parameter 'scale' of the model changed" in line
