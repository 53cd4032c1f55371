"""Rounds run in evaluation mode, and restore each module's mode and the generators: nothing trains by accident."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.checkpoint.saving import CheckpointCallback
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.models.mlp import MLP, MLPConfig
from noether.testing import make_model, make_trainer
from noether.training.trainers import WeightedLossTrainer

WATCH = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
BEST = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total", "eval_callbacks": [WATCH]}
EMA = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5], "eval_callbacks": [WATCH]}


class Frozen(MLP):
    """An mlp with a dropout that its constructor has put in evaluation mode, and one that trains."""

    def __init__(self) -> None:
        super().__init__(
            MLPConfig.model_validate(
                {
                    "kind": "mlp",
                    "hidden": [4],
                    "in_features": {"x": 3},
                    "out_features": {"y": [2]},
                    "optimizer": {"kind": "SGD", "lr": 0.1},
                }
            )
        )
        self.frozen, self.trained = nn.Dropout().eval(), nn.Dropout()
        self.seen: list[tuple[bool, bool, bool]] = []

    @property
    def modes(self):
        return self.training, self.frozen.training, self.trained.training

    def forward(self, x):
        self.seen.append((torch.is_grad_enabled(), self.frozen.training, self.trained.training))
        return super().forward(x=x)


def with_callback(tmp_path, callback_class, **settings):
    class Brings(WeightedLossTrainer):
        def get_trainer_callbacks(self, callback_default_args):
            return [callback_class(CallBackBaseConfig(id="noted", every_n_updates=3), **callback_default_args)]

    known = make_trainer(tmp_path, **settings)
    parts = {name: getattr(known, name) for name in ("data_container", "device", "tracker", "path_provider")}
    return Brings(known.config, **parts)


@pytest.mark.parametrize("callbacks", [[WATCH], [WATCH, BEST], [EMA]], ids=["pass", "best-checkpoint", "ema"])
def test_a_part_in_evaluation_mode_stays_in_it_after_evaluations(tmp_path, callbacks):
    model = Frozen()
    trainer = make_trainer(tmp_path, callbacks=callbacks)
    trainer.train(model)
    trainer.log_writer.close()
    assert {modes for modes in model.seen if modes[0]} == {(True, False, True)}
    assert {modes for modes in model.seen if not modes[0]} == {(False, False, False)}
    assert model.modes == (True, False, True)


def test_a_compiled_model_keeps_the_modes_of_its_parts(tmp_path, monkeypatch):
    class Compiled(nn.Module):
        def __init__(self, model):
            super().__init__()
            self._orig_mod = model

        def forward(self, **inputs):
            return self._orig_mod(**inputs)

    monkeypatch.setattr(torch, "compile", Compiled)
    model = Frozen()
    trainer = make_trainer(tmp_path, callbacks=[WATCH], use_torch_compile=True)
    trainer.train(model)
    trainer.eval(model)
    trainer.log_writer.close()
    assert {modes for modes in model.seen if modes[0]} == {(True, False, True)}
    assert model.modes == (True, False, True)


def test_eval_and_a_run_of_no_epochs_leave_each_mode_as_it_was(tmp_path):
    model = Frozen()
    model.eval()
    model.trained.train()
    for settings in ({}, {"max_epochs": 0}):
        trainer = make_trainer(tmp_path / str(len(settings)), callbacks=[WATCH], **settings)
        trainer.train(model) if settings else trainer.eval(model)
        trainer.log_writer.close()
        assert model.modes == (False, False, True)
    assert set(model.seen) == {(False, False, False)}


def test_all_rounds_see_the_model_in_evaluation_mode_and_tracking_hooks_do_not(tmp_path):
    seen: dict[str, set[bool]] = {}

    class Notes(PeriodicCallback):
        def note(self, hook):
            seen.setdefault(hook, set()).add(self.model.training)

        def before_training(self, **_):
            self.note("before_training")

        def track_after_update_step(self, **_):
            self.note("track")

        def periodic_callback(self, **_):
            self.note("periodic")

        def after_training(self, **_):
            self.note("after_training")

        def at_eval(self, update_counter, **_):
            self.note("at_eval")

    trainer, model = with_callback(tmp_path, Notes), make_model()
    trainer.train(model)
    trainer.eval(model)
    trainer.log_writer.close()
    assert seen == {
        "before_training": {False}, "track": {True}, "periodic": {False}, "after_training": {False}, "at_eval": {False}
    }  # fmt: skip
    assert model.training


@pytest.mark.parametrize("declares", [True, False])
def test_a_round_of_callbacks_that_do_not_call_the_model_switches_nothing(tmp_path, declares):
    class Reports(PeriodicCallback):
        calls_model = False

        def periodic_callback(self, **_):
            modes.append(self.model.training)

    class Inherits(Reports):
        """May call the model in its overrides, so it has to declare it again."""

    modes = []
    trainer = with_callback(
        tmp_path, Reports if declares else Inherits, callbacks=[{"kind": "lr", "every_n_updates": 1}]
    )
    trainer.train(make_model())
    trainer.log_writer.close()
    assert set(modes) == {declares}


def test_only_callbacks_that_leave_the_model_alone_say_so():
    assert CallbackBase.calls_model
    assert not CheckpointCallback.calls_model


@pytest.mark.parametrize("declares", [True, False])
def test_a_round_of_callbacks_that_draw_no_random_numbers_does_not_restore_the_generators(tmp_path, declares):
    class Draws(PeriodicCallback):
        draws_in_rounds = False  # which is not so, so that the test can see it

        def periodic_callback(self, **_):
            drawn.append(torch.rand(()).item())

    class Inherits(Draws):
        """May draw in its overrides, so it has to declare it again."""

    drawn = []
    trainer = with_callback(tmp_path, Draws if declares else Inherits, callbacks=[{"kind": "lr", "every_n_updates": 1}])
    trainer.train(make_model())
    trainer.log_writer.close()
    assert len(drawn) > 1
    assert len(set(drawn)) == (len(drawn) if declares else 1)


def test_default_callbacks_do_not_make_a_round_save_the_generators(tmp_path, monkeypatch):
    saved = []
    trainer = make_trainer(tmp_path, max_updates=4, track_every_n_updates=1, callbacks=[])
    trainer.prepare(model := make_model())
    monkeypatch.setattr("noether.training.rounds.preserved_rng", lambda: saved.append(1) or nullcontext())
    trainer.train(model)
    trainer.log_writer.close()
    assert len(saved) == 2  # around before_training and after_training


def test_a_part_that_a_hook_switches_keeps_its_mode_and_a_whole_model_does_not(tmp_path):
    class Switches(PeriodicCallback):
        def before_training(self, **_):
            self.model.trained.eval()

        def periodic_callback(self, update_counter, **_):
            self.model.eval()
            self.model(x=torch.zeros(1, 3))
            self.model.train()  # ends an evaluation by hand, and knows nothing of the frozen part
            if update_counter.update == 6:
                self.model.trained.train()

    model = Frozen()
    trainer = with_callback(tmp_path, Switches, callbacks=[WATCH])
    trainer.train(model)
    trainer.log_writer.close()
    modes_of_updates = [modes for modes in model.seen if modes[0]]
    assert modes_of_updates == [(True, False, False)] * 6 + [(True, False, True)] * 6
    assert nn.Module.train.__module__ == "torch.nn.modules.module"
