"""Updates that are compiled as one graph train as eager ones do, within rounding, or give way to them."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noether.core.callbacks.base import CallbackBase
from noether.core.models.base import ModelBase
from noether.core.models.build import AdaptedModule
from noether.core.models.composite import CompositeModel
from noether.errors import CheckpointError
from noether.testing import make_data, make_model, make_trainer
from noether.training.another_form import MOST_SHAPES

ADAMW = {"kind": "AdamW", "lr": 0.01, "clip_grad_norm": 0.5, "schedule": "cosine"}
SGD = {"kind": "SGD", "lr": 0.1, "momentum": 0.9, "groups": [{"match": ["*.bias"], "lr_scale": 0.1}]}


class Norms(nn.Module):
    """Layers with buffers, random numbers, a frozen layer and one in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8, bias=False)  # before a norm, its gradient is rounding noise
        self.norms = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.3), nn.LayerNorm(8))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.frozen(self.norms(self.first(x))).relu())


def module(module: nn.Module, optimizer: dict[str, Any]) -> ModelBase:
    config = make_model(optimizer=optimizer).model_config
    assert config is not None
    return AdaptedModule(module, config)


def norms(optimizer: dict[str, Any] = ADAMW) -> ModelBase:
    torch.manual_seed(1)
    return module(Norms(), optimizer)


class Ended:
    """State that a run leaves behind."""

    def __init__(self, model: ModelBase, trainer: Any) -> None:
        optimizers = model.optimizers().items()
        self.tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.tensors |= {f"{part}/{key}": t for part, found in optimizers for key, t in found.state_tensors().items()}
        self.norms = {part: found.last_grad_norm for part, found in optimizers}
        self.form = trainer.one_update.form
        self.counts = (trainer.skip_nan_loss_counter, trainer.finite_guard.skipped_updates)
        self.random = torch.get_rng_state()

    def assert_agrees(self, other: Ended) -> None:
        assert self.counts == other.counts
        assert self.tensors.keys() == other.tensors.keys()
        for name, tensor in other.tensors.items():
            torch.testing.assert_close(self.tensors[name], tensor, rtol=1e-4, atol=2e-6, equal_nan=True)
        for name, norm in other.norms.items():
            assert (norm is None) is (self.norms[name] is None)
            assert norm is None or torch.allclose(norm, self.norms[name], equal_nan=True)
        assert torch.equal(self.random, other.random)


def ended(folder: Path, model: ModelBase, form: str, bad: list[int] | None = None, **table: Any) -> Ended:
    data = make_data(samples=table.pop("samples", 24))
    data.train.properties["x"][bad or []] = float("nan")
    trainer = make_trainer(folder / form, data=data, update=form, **table)
    torch.manual_seed(2)
    trainer.train(model)
    return Ended(model, trainer)


def both(folder: Path, make: Callable[[], ModelBase], **table: Any) -> tuple[Ended, Ended]:
    compiled, eager = (ended(folder, make(), form, **table) for form in ("compiled", "eager"))
    assert compiled.form == "compiled"
    return compiled, eager


needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="compiles with a C++ compiler"
)
SKIPS = {"skip_nan_loss": True, "bad": [2, 9]}
OF_FOUR_STEPS = {"effective_batch_size": 8, "max_batch_size": 2}


@needs_a_compiler
@pytest.mark.timeout(600)
def test_a_compiled_run_ends_as_the_eager_one_within_rounding(tmp_path):
    compiled, eager = both(tmp_path, norms, **SKIPS)
    assert eager.counts[1] > 0
    compiled.assert_agrees(eager)


@pytest.mark.usefixtures("traced")
def test_an_update_of_several_steps_is_put_back_as_a_whole_if_it_is_skipped(tmp_path):
    compiled, eager = both(tmp_path, lambda: norms(SGD), **OF_FOUR_STEPS, **SKIPS)
    assert eager.counts[1] > 0
    compiled.assert_agrees(eager)


class Parts(CompositeModel):
    """Adds two models."""

    def forward(self, x):
        return {"y": self.a(x=x)["y"] + self.b(x=x)["y"]}


@pytest.mark.usefixtures("traced")
def test_each_part_of_a_composite_has_its_optimizer_in_the_graph(tmp_path):
    def composite() -> ModelBase:
        return Parts(parts={"a": make_model(optimizer=ADAMW), "b": make_model(seed=1, optimizer=SGD)})

    compiled, eager = both(tmp_path, composite)
    compiled.assert_agrees(eager)


@needs_a_compiler
@pytest.mark.timeout(600)
@pytest.mark.long
@pytest.mark.parametrize("steps", [{}, OF_FOUR_STEPS], ids=["one step", "four steps"])
@pytest.mark.parametrize("optimizer", [ADAMW, SGD], ids=["adamw", "sgd"])
def test_inductor_agrees_in_all_of_these(tmp_path, optimizer, steps):
    compiled, eager = both(tmp_path, lambda: norms(optimizer), **steps, **SKIPS)
    compiled.assert_agrees(eager)


class Sees(CallbackBase):
    """Collects what accumulation steps show to callbacks."""

    def track_after_accumulation_step(self, update_counter, losses, update_outputs, accumulation_step):
        self.seen.append((accumulation_step, losses, update_outputs, self.trainer.applied))


@pytest.mark.usefixtures("traced")
def test_callbacks_see_losses_and_outputs_of_every_accumulation_step(tmp_path):
    seen = {}
    for form in ("compiled", "eager"):
        trainer, model = make_trainer(tmp_path / form, update=form, max_batch_size=2, track_outputs=True), make_model()
        callback = Sees(**trainer.callback_default_kwargs(model))
        callback.id, callback.seen = "sees", []
        trainer.get_all_callbacks = lambda model, callback=callback: [callback]
        trainer.train(model)
        seen[form] = callback.seen
        assert trainer.one_update.form == form
    assert len(seen["compiled"]) == len(seen["eager"]) == 24
    for one, other in zip(seen["compiled"], seen["eager"], strict=True):
        torch.testing.assert_close(one, other)


# Runs that give way to eager updates


def told(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = [record.getMessage() for record in caplog.records if "updates are eager" in record.getMessage()]
    return line


LOOKS = {"kind": "training-stability", "id": "looks", "every_n_updates": 1}
REFUSED = {
    "precision": ({"precision": "bf16"}, {}),
    "use_torch_compile": ({"use_torch_compile": True}, {}),
    "evaluates the loss itself": ({}, {"optimizer": {"kind": "LBFGS"}}),
    "RMSprop": ({}, {"optimizer": {"kind": "RMSprop"}}),
    "no C++ compiler": ({}, {}),
    "'looks' reads gradients": (
        {"callbacks": [{"kind": "training-stability", "id": "looks", "every_n_updates": 1}]},
        {},
    ),
    "an `update` of its own": ({}, {}),
}


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
@pytest.mark.parametrize("reason", REFUSED)
def test_a_form_that_is_not_possible_is_known_before_training(tmp_path, monkeypatch, reason):
    of_trainer, of_model = REFUSED[reason]
    trainer, model = make_trainer(tmp_path, update="compiled", **of_trainer), make_model(**of_model)
    if reason.startswith("no C++"):
        monkeypatch.setenv("CXX", "no-such-compiler")
    if reason.startswith("an `update`"):
        trainer.update = trainer.update
    trainer.prepare(model)
    assert trainer.update_form.form.name == "eager"
    assert reason in trainer.update_form.reasons["compiled"]


def test_a_hook_on_a_module_is_not_compiled(tmp_path):
    trainer, model = make_trainer(tmp_path, update="compiled"), make_model()
    model.layers[0].register_forward_hook(lambda *_: None)
    trainer.prepare(model)
    assert "module 'layers.0' has hooks" in trainer.update_form.reasons["compiled"]


class Odd(nn.Module):
    """Has an unused layer, replaces a buffer, or cannot be traced."""

    def __init__(self, oddity: str) -> None:
        super().__init__()
        self.used, self.unused, self.oddity = nn.Linear(3, 2), nn.Linear(1, 1), oddity
        self.register_buffer("seen", torch.zeros(()))
        if oddity != "no gradient":
            del self.unused

    def forward(self, x: Tensor) -> Tensor:
        if self.oddity == "replaces the buffer":
            self.seen = self.seen + 1.0
        if self.oddity == "cannot be compiled" and x.sum() > 1e9:
            return x
        return self.used(x)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("reason", ["no gradient", "replaces the buffer", "cannot be compiled"])
def test_a_model_that_cannot_be_one_graph_trains_eagerly_bit_for_bit(tmp_path, caplog, reason):
    def odd() -> ModelBase:
        torch.manual_seed(1)
        return module(Odd(reason), ADAMW)

    with caplog.at_level(logging.WARNING, "noether"):
        compiled, eager = (ended(tmp_path, odd(), form) for form in ("compiled", "eager"))
    assert (compiled.form, reason in told(caplog)) == ("eager", True)
    assert all(torch.equal(tensor, eager.tensors[name]) for name, tensor in compiled.tensors.items())
    assert torch.equal(compiled.random, eager.random)


def changes_dropout(trainer: Any, model: ModelBase) -> None:
    model.layers[2].p = 0.9


def adds_hook(trainer: Any, model: ModelBase) -> None:
    model.layers[0].register_forward_hook(lambda module, inputs, output: output * 0.5)


def sets_option(trainer: Any, model: ModelBase) -> None:
    model.optimizer.torch_optimizer.param_groups[0]["momentum"] = 0.1


def thaws(trainer: Any, model: ModelBase) -> None:
    trainer.unfreeze("layers.0.*")


def replaces_state(trainer: Any, model: ModelBase) -> None:
    optimizer = model.optimizer.torch_optimizer
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def hooks_step(trainer: Any, model: ModelBase) -> None:
    parameters = list(model.parameters())
    model.optimizer.torch_optimizer.register_step_post_hook(lambda *_: torch._foreach_mul_(parameters, 0.9))


def wraps_step(trainer: Any, model: ModelBase) -> None:
    torch.optim.lr_scheduler.StepLR(model.optimizer.torch_optimizer, 1)


def hooks_gradient(trainer: Any, model: ModelBase) -> None:
    model.layers[0].weight.register_hook(lambda gradient: gradient * 0.5)


def hooks_sum_of_gradients(trainer: Any, model: ModelBase) -> None:
    def halves(parameter: Tensor) -> None:
        parameter.grad.mul_(0.5)

    model.layers[0].weight.register_post_accumulate_grad_hook(halves)


def clips_norm(trainer: Any, model: ModelBase) -> None:
    model.optimizer.clip_grad_norm = 0.01


def clips_values(trainer: Any, model: ModelBase) -> None:
    model.optimizer.clip_grad_value = 0.001


HOOKS = [adds_hook, hooks_step, wraps_step, hooks_gradient, hooks_sum_of_gradients]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "change", [changes_dropout, sets_option, thaws, replaces_state, clips_norm, clips_values, *HOOKS]
)
def test_a_change_of_something_that_the_graph_has_read_ends_the_form_with_one_line(tmp_path, caplog, change):
    ran = {}
    for form in ("compiled", "eager"):
        trainer = make_trainer(tmp_path / form, update=form, max_updates=4)
        frozen = ["layers.0.*"] if change is thaws else []
        model = make_model(dropout=0.5, optimizer={"kind": "SGD", "lr": 0.1, "momentum": 0.9}, frozen=frozen).freeze()
        trainer.prepare(model)
        stream = iter(trainer.get_data_loader([], 4))
        trainer.one_update.begin(model, model)
        torch.manual_seed(2)
        with caplog.at_level(logging.WARNING, "noether"), torch.no_grad():
            for update in range(4):
                if update == 2:
                    assert trainer.one_update.form_state()["form"] == form
                    change(trainer, model)
                    trainer.one_update.look_again()  # as after hooks
                    assert trainer.one_update.form_state() == {"form": "eager"}
                trainer.one_update(stream)
        ran[form] = Ended(model, trainer)
    assert ran["compiled"].form == "eager"
    assert told(caplog)
    ran["compiled"].assert_agrees(ran["eager"])


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("change", HOOKS)
def test_a_hook_that_is_added_before_the_first_update_is_called(tmp_path, caplog, change):
    ran = {}
    for form in ("compiled", "eager"):
        trainer, model = make_trainer(tmp_path / form, update=form, max_updates=4), make_model()
        trainer.prepare(model)
        stream = iter(trainer.get_data_loader([], 4))
        trainer.one_update.begin(model, model)
        change(trainer, model)
        torch.manual_seed(2)
        with caplog.at_level(logging.WARNING, "noether"), torch.no_grad():
            for _ in range(2):
                trainer.one_update(stream)
        ran[form] = Ended(model, trainer)
    assert ran["compiled"].form == "eager"
    assert "hook" in told(caplog)
    ran["compiled"].assert_agrees(ran["eager"])


@pytest.mark.usefixtures("traced")
def test_a_batch_of_another_type_gets_a_graph_of_its_own_also_after_a_resume(tmp_path):
    def states(update: Any) -> list[Any]:
        return update.form_state()["shapes"]

    trainer, model = make_trainer(tmp_path, update="compiled"), make_model()
    trainer.prepare(model)
    batch = {name: tensor[:4] for name, tensor in make_data().train.properties.items()}
    for targets in (batch["y_target"], batch["y_target"].double()):
        trainer.one_update.accumulate({**batch, "y_target": targets}, model, model, 1, 0)
    assert (trainer.one_update.form, len(states(trainer.one_update))) == ("compiled", 2)
    resumed = make_trainer(tmp_path, update="compiled")
    resumed.prepare(model)
    resumed.one_update.take_form(trainer.one_update.form_state())
    resumed.one_update.accumulate(batch, model, model, 1, 0)
    assert states(resumed.one_update) == states(trainer.one_update)


@pytest.mark.usefixtures("traced")
def test_a_few_shapes_get_graphs_and_further_ones_run_eagerly_also_after_a_resume(tmp_path):
    trainer, model = make_trainer(tmp_path, update="compiled"), make_model()
    trainer.prepare(model)
    batch = make_data().train.properties

    def ran(trainer: Any, samples: int) -> str:
        def made() -> int:
            return sum(graph is not None for graph in trainer.one_update._graphs.values())

        before, small = made(), {name: tensor[:samples] for name, tensor in batch.items()}
        trainer.one_update.accumulate(small, model, model, 1, 0)
        return "new graph" if made() > before else "no graph"

    assert [ran(trainer, samples) for samples in range(1, MOST_SHAPES + 3)] == ["new graph"] * MOST_SHAPES + [
        "no graph"
    ] * 2
    state = trainer.one_update.form_state()
    resumed = make_trainer(tmp_path, update="compiled")
    resumed.prepare(model)
    resumed.one_update.take_form(state)
    assert [ran(resumed, samples) for samples in (MOST_SHAPES + 1, 2, 1)] == ["no graph", "new graph", "new graph"]
    assert resumed.one_update.form_state() == state


def test_shapes_of_an_earlier_version_which_kept_no_types_are_those_of_float32(tmp_path):
    trainer = make_trainer(tmp_path, update="compiled")
    trainer.prepare(make_model())
    trainer.one_update.take_form({"form": "compiled", "shapes": [[["x", [4, 3]]]]})
    assert trainer.one_update.form_state()["shapes"] == [[["x", [4, 3], "torch.float32"]]]


def test_a_type_of_values_that_torch_has_not_is_a_damaged_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, update="compiled")
    trainer.prepare(make_model())
    with pytest.raises(CheckpointError):
        trainer.one_update.take_form({"form": "compiled", "shapes": [[["x", [4, 3], "torch.save"]]]})
