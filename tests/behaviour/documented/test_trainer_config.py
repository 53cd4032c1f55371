"""The sentences about the fields of `BaseTrainerConfig`."""

import logging
import os
import signal

import pytest
import torch
from pydantic import ValidationError

from noether.core.callbacks import CallbackBase, PeriodicCallback
from noether.core.callbacks.default import TrainingStabilityCallback
from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.errors import NonFiniteError, SpecError
from noether.testing import make_data, make_model

OFFLINE_LOSS = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}


class Notes(PeriodicCallback):
    """Notes its hooks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.notes = []

    def before_training(self, *, update_counter):
        self.notes.append("before_training")

    def track_after_update_step(self, *, update_counter, times):
        self.notes.append("update")

    def periodic_callback(self, *, interval_type, **_):
        self.notes.append(interval_type)

    def after_training(self, *, update_counter):
        self.notes.append("after_training")


class NotesOnce(CallbackBase):
    """Notes its hooks, without an interval."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.notes = []

    before_training = Notes.before_training
    after_training = Notes.after_training


NOTES = (Notes, {"every_n_epochs": 5})


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# Limits


@pytest.mark.parametrize("limits", [{"max_epochs": None}, {"max_epochs": 1, "max_updates": 4}], ids=str)
def test_exactly_one_limit_is_given(workshop, limits):
    with pytest.raises(ValidationError):
        workshop.trainer(**limits)


@pytest.mark.parametrize("limit", ["max_epochs", "max_updates", "max_samples"])
def test_with_a_limit_of_0_training_is_skipped_and_all_callbacks_are_invoked_once(workshop, limit):
    model = make_model()
    before = weights(model)
    trainer = workshop.train(NOTES, NotesOnce, OFFLINE_LOSS, model=model, **{limit: 0})
    periodic, once, _ = trainer.callbacks
    assert periodic.notes == ["before_training", "eval", "after_training"]
    assert once.notes == ["before_training", "after_training"]
    assert workshop.metrics(trainer)[0]["loss/test/total"] > 0
    assert same(weights(model), before)


def test_in_a_run_with_a_limit_of_0_the_default_callbacks_log_the_facts_of_the_run(workshop):
    trainer = workshop.train(max_epochs=0, add_default_callbacks=True)
    metrics = workshop.metrics(trainer)[0]
    assert (metrics["data/train/samples"], metrics["model/parameters"]) == (24, 26)


def test_a_run_with_a_limit_of_0_saves_what_a_callback_asks_for_and_nothing_else(workshop):
    assert workshop.checkpoints(workshop.train(max_epochs=0)) == {}
    trainer = workshop.train({"kind": "checkpoint", "every_n_epochs": 1}, max_epochs=0)
    assert "model.safetensors" in workshop.checkpoints(trainer)[0]


def test_start_at_epoch_skips_the_epochs_before_and_steps_the_schedules(workshop):
    schedule = {"kind": "SGD", "lr": 0.1, "schedule": {"kind": "linear", "start": 1.0, "end": 0.0}}
    trainer = workshop.train(
        NOTES, {"kind": "lr", "every_n_updates": 1}, model=make_model(optimizer=schedule), start_at_epoch=1
    )
    assert trainer.callbacks[0].notes.count("update") == 6
    metrics = workshop.metrics(trainer)
    assert min(metrics) == 7
    assert metrics[7]["optim/lr"] == pytest.approx(0.1 * (1 - 6 / 12))


# Batches


def test_a_batch_larger_than_max_batch_size_is_accumulated_to_the_same_weights(workshop):
    trainer = workshop.trainer(effective_batch_size=8, max_batch_size=2)
    assert (trainer.accumulation_steps, trainer.batch_size) == (4, 2)
    accumulated, whole = make_model(), make_model()
    workshop.train(model=accumulated, effective_batch_size=8, max_batch_size=2)
    workshop.train(model=whole, effective_batch_size=8)
    for one, other in zip(accumulated.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_effective_batch_size_is_the_number_of_samples_of_an_update(workshop):
    trainer = workshop.train(effective_batch_size=6, max_updates=3)
    assert trainer.update_counter.sample == 18


def test_accumulation_that_is_disabled_is_an_error_if_it_would_be_needed(workshop):
    with pytest.raises(SpecError):
        workshop.trainer(effective_batch_size=8, max_batch_size=2, disable_gradient_accumulation=True)
    assert workshop.trainer(effective_batch_size=8, disable_gradient_accumulation=True).accumulation_steps == 1


class KeepsTypes(PeriodicCallback):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.found = set()
        self.model.layers[0].register_forward_hook(lambda *args: self.found.add(args[-1].dtype))

    def periodic_callback(self, **_):
        pass


@pytest.mark.parametrize(
    ("names", "found"), [(("float32", "fp32"), torch.float32), (("bfloat16", "bf16"), torch.bfloat16)], ids=str
)
def test_precision_is_the_type_of_the_forward_pass_under_both_of_its_names(workshop, names, found):
    for name in names:
        model = make_model()
        trainer = workshop.train((KeepsTypes, {"every_n_epochs": 1}), OFFLINE_LOSS, model=model, precision=name)
        assert trainer.callbacks[0].found == {found}
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_forward_and_target_properties_choose_the_inputs_and_the_targets_of_a_batch(workshop):
    trainer = workshop.trainer()
    seen = []
    trainer.loss_compute = lambda output, targets: seen.append(set(targets)) or output["y"].mean()
    model = make_model()
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    trainer.train_step({"x": torch.ones(1, 3), "y_target": torch.ones(1, 2), "other": torch.ones(1)}, model)
    assert seen == [{"x"}, {"y_target"}]


def test_dataloader_prefetch_factor_is_that_of_the_loader(workshop):
    trainer = workshop.trainer(dataloader_prefetch_factor=7)
    assert trainer.data_container.prefetch_factor == 7


# Losses that are not finite


def broken_data(bad):
    data = make_data()
    train = data.get_dataset("train").__getitems__(list(range(24)))
    train["x"][:bad] = torch.nan
    return DataContainer({"train": InMemoryDataset(train), "test": data.get_dataset("test")})


def test_nan_losses_are_skipped_up_to_a_number_in_a_row(workshop):
    model = make_model()
    trainer = workshop.train(model=model, data=broken_data(1), skip_nan_loss=True)
    assert trainer.update_counter.update == 12
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    trainer = workshop.trainer(data=broken_data(24), skip_nan_loss=True, skip_nan_loss_max_count=5)
    with pytest.raises(NonFiniteError):
        trainer.train(make_model())
    assert trainer.update_counter.update == trainer.skip_nan_loss_counter == 5
    assert workshop.trainer().config.skip_nan_loss_max_count == 100


def test_without_skip_nan_loss_the_first_one_ends_training(workshop):
    trainer = workshop.trainer(data=broken_data(24))
    with pytest.raises(NonFiniteError):
        trainer.train(make_model())
    assert trainer.update_counter.update == 1


# Intervals of the default callbacks


@pytest.mark.parametrize("verb", ["log", "track"])
def test_one_interval_at_most_is_given_for_logging_and_for_tracking(workshop, verb):
    with pytest.raises(ValidationError):
        workshop.trainer(**{f"{verb}_every_n_epochs": 1, f"{verb}_every_n_updates": 2})
    assert workshop.trainer(**{f"{verb}_every_n_samples": 8}).config  # and needs no batch size beside it


@pytest.mark.parametrize(
    ("interval", "updates"),
    [({"epochs": 1}, [6, 12]), ({"updates": 5}, [5, 10]), ({"samples": 16}, [4, 8, 12])],
    ids=str,
)
def test_metrics_of_the_default_callbacks_are_tracked_at_the_interval(workshop, interval, updates):
    ((unit, n),) = interval.items()
    trainer = workshop.train(add_default_callbacks=True, **{f"track_every_n_{unit}": n})
    metrics = workshop.metrics(trainer)
    assert [update for update, line in metrics.items() if "optim/lr" in line] == updates


def test_progress_is_logged_at_the_interval(workshop, caplog):
    caplog.set_level(logging.INFO)
    workshop.train(add_default_callbacks=True, log_every_n_epochs=1)
    assert sum("updates/s" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize("interval", [None, 4])
def test_training_stability_is_monitored_at_its_interval(workshop, interval):
    trainer = workshop.train(
        add_default_callbacks=True, monitor_training_stability=True, monitor_interval=interval, track_every_n_epochs=1
    )
    assert any(isinstance(callback, TrainingStabilityCallback) for callback in trainer.callbacks)
    logged = {u: line for u, line in workshop.metrics(trainer).items() if "stability/gradient_norm" in line}
    assert list(logged) == ([6, 12] if interval is None else [4, 8, 12])
    assert all(line["stability/model_norm"] > 0 for line in logged.values())


# The rest


def test_callbacks_of_the_config_are_those_of_training_in_their_order(workshop):
    trainer = workshop.train(
        callbacks=[{**OFFLINE_LOSS, "id": "b"}, {"kind": "checkpoint", "id": "a", "every_n_epochs": 1}]
    )
    assert [callback.id for callback in trainer.callbacks] == ["b", "a"]


class Signals(PeriodicCallback):
    """Sends a signal to this process after the third update."""

    number = signal.SIGTERM

    def track_after_update_step(self, *, update_counter, times):
        if update_counter.update == 3:
            os.kill(os.getpid(), self.number)


class Interrupts(Signals):
    number = signal.SIGINT


@pytest.mark.parametrize(
    ("sends", "saves", "kept"), [(Signals, False, [3]), (Interrupts, True, [3]), (Interrupts, False, [])], ids=str
)
def test_sigterm_always_saves_a_checkpoint_and_ctrl_c_if_save_on_sigint_is_set(workshop, sends, saves, kept):
    trainer = workshop.trainer((sends, {"every_n_epochs": 1}), save_on_sigint=saves)
    try:
        trainer.train(make_model())
    except KeyboardInterrupt:
        assert not kept
    assert list(workshop.checkpoints(trainer)) == kept
    assert trainer.update_counter.update == 3


def test_the_options_of_distributed_training_change_nothing_on_one_rank(workshop):
    plain, options = make_model(), make_model()
    workshop.train(model=plain)
    workshop.train(model=options, find_unused_params=True, static_graph=True)
    assert same(weights(plain), weights(options))
