"""Compiled updates do without guards only while nothing that they have read can change."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.models.build import AdaptedModule
from noether.testing import make_model, make_trainer
from noether.training.graph_layout import Unguarded
from noether.training.trainers.types import TrainerResult

pytestmark = pytest.mark.usefixtures("traced")
LONG = pytest.mark.long  # each is traced twice, which takes a second or more
UPDATES = 12
NOTES: dict[str, int] = {}


class Part(nn.Module):
    """Does something odd between two layers."""

    def __init__(self, oddity: str) -> None:
        super().__init__()
        self.first, self.last, self.act, self.oddity = nn.Linear(3, 8), nn.Linear(8, 2), nn.Tanh(), oddity
        self.calls, self.list, self.cache, self.progress = 0, [], {}, None
        self.shown: Tensor | None = None
        self.own = torch.Generator().manual_seed(1)
        self.scale = torch.full((8,), 2.0)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x.add_(1.0) if self.oddity == "in place" else x))
        x = getattr(self, self.oddity.replace(" ", "_"), lambda x: x)(x)
        return self.last(x)

    def counts(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls

    def lists(self, x: Tensor) -> Tensor:
        self.list.append(1)
        return x * len(self.list)

    def notes(self, x: Tensor) -> Tensor:
        NOTES["calls"] = NOTES.get("calls", 0) + 1
        return x * NOTES["calls"]

    def draws(self, x: Tensor) -> Tensor:
        return x * torch.rand((), generator=self.own)

    def shows(self, x: Tensor) -> Tensor:
        self.shown = x.detach()
        return x

    def caches(self, x: Tensor) -> Tensor:
        if "scale" not in self.cache:
            self.cache["scale"] = torch.full((8,), 0.5)
        return x * self.cache["scale"]

    def scales(self, x: Tensor) -> Tensor:
        return x * self.scale

    def counts_in_a_buffer(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count

    def reads_the_run(self, x: Tensor) -> Tensor:
        return x if self.progress is None or self.progress.update < 7 else x * 0.5


class GivesCounter(CallbackBase):
    def before_training(self, update_counter: Any) -> None:
        self.model.module.progress = update_counter


class Swaps(PeriodicCallback):
    def periodic_callback(self, **_: Any) -> None:
        if self.trainer.update_counter.update == 6:
            self.model.module.act = nn.ReLU()


class SwapsInEveryUpdate(CallbackBase):
    def track_after_update_step(self, update_counter: Any) -> None:
        if update_counter.update == 6:
            self.model.module.act = nn.ReLU()


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the calls without guards."""
    calls: list[int] = []
    call = Unguarded.__call__
    monkeypatch.setattr(Unguarded, "__call__", lambda self, fresh: calls.append(1) or call(self, fresh))
    return calls


def ended(folder: Any, form: str, oddity: str, callback: type[CallbackBase] | None = None, **table: Any) -> Any:
    NOTES.clear()
    torch.manual_seed(1)
    config = make_model(optimizer={"kind": "SGD", "lr": 0.01, "momentum": 0.9}).model_config
    model = AdaptedModule(Part(oddity), config)
    table = {"max_updates": UPDATES, "log_every_n_updates": 100, "track_every_n_updates": 100, **table}
    trainer = make_trainer(folder / form, update=form, **table)
    if callback is not None:
        given = (
            {"callback_config": CallBackBaseConfig(kind="x", every_n_updates=3)}
            if issubclass(callback, PeriodicCallback)
            else {}
        )
        made = callback(**trainer.callback_default_kwargs(model), **given)
        made.id = "mine"
        trainer.get_all_callbacks = lambda model: [made]
    torch.manual_seed(2)
    trainer.train(model)
    return trainer.one_update.form, model


def both(folder: Any, oddity: str, callback: type[CallbackBase] | None = None, **table: Any) -> str:
    """Return the form in which the compiled run ended; it left what the eager one did."""
    form, compiled = ended(folder, "compiled", oddity, callback, **table)
    _, eager = ended(folder, "eager", oddity, callback, **table)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, rtol=1e-4, atol=2e-6)
    for name in ("calls", "list"):
        assert getattr(compiled.module, name) == getattr(eager.module, name)
    assert torch.equal(compiled.module.own.get_state(), eager.module.own.get_state())
    if eager.module.shown is not None:
        torch.testing.assert_close(compiled.module.shown, eager.module.shown)
    return form


@pytest.mark.parametrize(
    "oddity", ["nothing", pytest.param("in place", marks=LONG), pytest.param("counts in a buffer", marks=LONG)]
)
def test_a_model_that_leaves_only_tensors_runs_without_guards_from_the_third_update_on(tmp_path, direct, oddity):
    assert both(tmp_path, oddity) == "compiled"
    assert len(direct) >= UPDATES - 4  # the first two, and those after the rounds at the end of an epoch


@LONG
@pytest.mark.parametrize("oddity", ["shows", "scales", "caches"])
def test_a_model_that_sets_an_attribute_or_has_loose_tensors_keeps_its_guards(tmp_path, direct, oddity):
    assert both(tmp_path, oddity) == "compiled"
    assert direct == []


@pytest.mark.parametrize(
    ("oddity", "reason"),
    [
        ("counts", "the forward pass changes the attribute 'calls'"),
        ("notes", "the forward pass changes objects"),
        pytest.param("lists", "the forward pass changes objects", marks=LONG),
        pytest.param("draws", "it cannot be compiled", marks=LONG),
    ],
)
def test_a_forward_pass_that_changes_objects_trains_eagerly_as_if_it_had_never_been_looked_at(
    tmp_path, direct, caplog, oddity, reason
):
    with caplog.at_level(logging.WARNING, "noether"):
        assert both(tmp_path, oddity) == "eager"
    assert direct == []
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("oddity", "callback"),
    [
        ("nothing", Swaps),
        pytest.param("reads the run", GivesCounter, marks=LONG),
        pytest.param("nothing", SwapsInEveryUpdate, marks=LONG),
    ],
)
def test_a_change_is_seen_before_the_next_update(tmp_path, oddity, callback):
    assert both(tmp_path, oddity, callback) == "eager"


@LONG
def test_accumulation_steps_run_without_guards_too(tmp_path, direct):
    assert both(tmp_path, "nothing", max_batch_size=1) == "compiled"
    assert len(direct) > 2 * UPDATES


@LONG
def test_a_train_step_that_uses_the_last_loss_keeps_its_guards(tmp_path, monkeypatch, direct):
    model, trainer = make_model(), make_trainer(tmp_path, update="compiled", max_updates=4)
    losses: list[Tensor] = [torch.ones(())]

    def step(batch: dict[str, Tensor], model: nn.Module) -> TrainerResult:
        loss = (model(x=batch["x"])["y"] - batch["y_target"]).square().mean()
        return TrainerResult(loss / (1.0 + losses[0]))

    monkeypatch.setattr(trainer, "train_step", step)
    trainer.train(model)
    assert trainer.one_update.form == "compiled"
    assert direct == []


def test_a_batch_that_is_laid_out_in_another_way_is_left_to_the_guards(tmp_path, direct):
    trainer, model = make_trainer(tmp_path, update="compiled"), make_model()
    trainer.prepare(model)
    trainer.one_update.begin(model, model)
    batches = [{"x": torch.randn(4, 3), "y_target": torch.randn(4, 2)} for _ in range(4)]
    for batch in batches:
        trainer.one_update.accumulate(batch, model, model, 1, 0)
    assert (len(direct), trainer.one_update.form) == (2, "compiled")
    trainer.one_update.accumulate({**batches[0], "x": torch.randn(3, 4).t()}, model, model, 1, 0)
    assert trainer.one_update.form == "eager"


@LONG
def test_a_version_of_torch_that_does_not_show_its_code_keeps_the_guards(tmp_path, monkeypatch, direct):
    monkeypatch.delattr(torch._dynamo.eval_frame, "_debug_get_cache_entry_list")
    assert both(tmp_path, "nothing") == "compiled"
    assert direct == []
