"""The sentences about `PeriodicCallback`."""

from typing import get_args

import pytest
import torch

from noether.core.callbacks import PeriodicCallback
from noether.core.callbacks.periodic import IntervalType
from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.errors import SpecError
from noether.testing import make_counter, make_data

PARTS = {"data_time", "forward_time", "backward_time", "update_time"}


class Watch(PeriodicCallback):
    """Notes the calls of `periodic_callback` and of both tracking hooks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls, self.batches, self.updates, self.passed = [], [], [], []

    def track_after_accumulation_step(
        self, *, update_counter, batch, losses, update_outputs, accumulation_steps, accumulation_step
    ):
        applied = self.trainer.applied
        self.batches.append((accumulation_step, accumulation_steps, len(batch["x"]), set(losses), float(applied)))

    def track_after_update_step(self, *, update_counter, times):
        self.updates.append((update_counter.update, set(times)))

    def periodic_callback(self, *, interval_type, update_counter, **kwargs):
        self.calls.append((interval_type, update_counter.update))
        self.passed.append(kwargs)


def calls_of(trainer):
    return trainer.callbacks[-1].calls


def test_the_interval_types_are_epoch_update_sample_and_eval():
    assert set(get_args(IntervalType)) == {"epoch", "update", "sample", "eval"}


@pytest.mark.parametrize(
    ("interval", "calls"),
    [
        ({"every_n_epochs": 2}, [("epoch", 12)]),
        ({"every_n_updates": 5}, [("update", 5), ("update", 10)]),
        ({"every_n_samples": 16}, [("sample", 4), ("sample", 8), ("sample", 12)]),  # an update has four samples
    ],
    ids=str,
)
def test_a_callback_is_called_every_n_epochs_updates_or_samples(workshop, interval, calls):
    assert calls_of(workshop.train((Watch, interval))) == calls


def test_several_intervals_of_one_callback_fire_each_by_itself(workshop):
    trainer = workshop.train((Watch, {"every_n_epochs": 1, "every_n_updates": 4}))
    assert calls_of(trainer) == [("update", 4), ("epoch", 6), ("update", 8), ("update", 12), ("epoch", 12)]


def test_a_spec_gives_a_callback_one_interval(run, tiny_spec):
    tiny_spec["trainer"]["callbacks"] = [{"kind": "checkpoint", "every_n_epochs": 1, "every_n_updates": 2}]
    with pytest.raises(SpecError):
        run()


def test_tracking_hooks_are_called_continuously_and_the_periodic_hook_at_its_interval_only(workshop):
    watch = workshop.train((Watch, {"every_n_epochs": 1}), max_batch_size=2).callbacks[0]
    assert (len(watch.batches), len(watch.updates), len(watch.calls)) == (24, 12, 2)


def test_a_tracking_hook_gets_the_batch_its_losses_and_the_index_of_the_accumulation_step_from_0(workshop):
    watch = workshop.train((Watch, {"every_n_epochs": 1}), max_updates=1, max_batch_size=2).callbacks[0]
    assert watch.batches == [(0, 2, 2, {"total", "y_loss"}, 1.0), (1, 2, 2, {"total", "y_loss"}, 1.0)]


def broken_data():
    """The usual data with one value that is not finite, in every epoch."""
    data = make_data()
    train, test = (data.get_dataset(key).__getitems__(list(range(n))) for key, n in (("train", 24), ("test", 10)))
    train["x"][3, 0] = torch.nan
    return DataContainer({"train": InMemoryDataset(train), "test": InMemoryDataset(test)})


@pytest.mark.parametrize("batch_size", [4, 2])
def test_track_after_accumulation_step_is_called_for_every_batch_and_trainer_applied_is_if_it_counted(
    workshop, batch_size
):
    trainer = workshop.train(
        (Watch, {"every_n_epochs": 1}), data=broken_data(), skip_nan_loss=True, max_batch_size=batch_size
    )
    steps = 4 // batch_size
    flags = [flag for *_, flag in trainer.callbacks[0].batches]
    assert len(flags) == 12 * steps
    assert flags[steps - 1 :: steps].count(0.0) == 2  # the last accumulation step has the verdict


def test_track_after_update_step_is_called_after_an_optimizer_step_that_was_made(workshop):
    trainer = workshop.train((Watch, {"every_n_epochs": 1}), data=broken_data(), skip_nan_loss=True)
    assert len(trainer.callbacks[0].updates) == 10  # of twelve, two had a value that is not finite


def test_track_after_update_step_gets_the_time_of_each_part_of_the_update(workshop):
    watch = workshop.train((Watch, {"every_n_epochs": 1})).callbacks[0]
    assert watch.updates == [(update, PARTS) for update in range(1, 13)]


@pytest.mark.parametrize(
    ("hook", "interval", "calls"),
    [
        ("after_epoch", {"every_n_epochs": 2}, [("epoch", 12)]),
        ("after_update", {"every_n_updates": 5}, [("update", 10)]),
    ],
    ids=["after_epoch", "after_update"],
)
def test_after_epoch_and_after_update_check_if_the_callback_is_to_be_invoked(workshop, hook, interval, calls):
    watch = workshop.callback((Watch, interval))
    for update in (6, 10, 12) if hook == "after_update" else (6, 12):
        getattr(watch, hook)(make_counter(update=update))
    assert watch.calls == calls


def test_the_arguments_of_the_triggering_hook_are_passed_on(workshop):
    trainer = workshop.train((Watch, {"every_n_epochs": 2}))
    (passed,) = trainer.callbacks[0].passed
    assert passed.keys() == {"trainer_model", "data_iter", "batch_size"}
    by_hand = workshop.callback((Watch, {"every_n_updates": 1}))
    by_hand.after_update(make_counter(update=1), colour="red")
    assert by_hand.passed == [{"colour": "red"}]


def test_at_eval_invokes_the_callback_independently_of_its_schedule(workshop):
    watch = workshop.callback((Watch, {"every_n_epochs": 7}))
    watch.at_eval(make_counter(update=1))
    assert watch.calls == [("eval", 1)]


@pytest.mark.parametrize(
    ("interval", "update", "left", "per_interval"),
    [
        ({"every_n_epochs": 2}, 5, 7, 12),
        ({"every_n_updates": 4}, 5, 3, 4),
        ({"every_n_updates": 4}, 8, 4, 4),  # a whole interval at an exact multiple
        ({"every_n_samples": 20}, 5, 5, 5),
    ],
    ids=str,
)
def test_a_callback_knows_the_updates_until_its_next_call_and_between_two_calls(
    workshop, interval, update, left, per_interval
):
    watch, counter = workshop.callback((Watch, interval)), make_counter(update=update)
    assert watch.updates_till_next_invocation(counter) == left
    assert watch.updates_per_interval(counter) == per_interval


@pytest.mark.parametrize("interval", [{"every_n_epochs": 1}, {"every_n_updates": 50}, {"every_n_samples": 8}], ids=str)
def test_the_verbose_interval_is_spelt_as_in_a_spec(workshop, interval):
    ((name, n),) = interval.items()
    watch = workshop.callback((Watch, interval))
    assert watch.get_interval_string_verbose() == f"{name}={n}"
    assert getattr(watch, name) == n


def test_batch_size_is_that_of_training_unless_the_callback_has_its_own(workshop):
    trainer = workshop.trainer(max_batch_size=2)
    assert workshop.callback((Watch, {"every_n_epochs": 1}), trainer).batch_size == 2
    assert workshop.callback((Watch, {"every_n_epochs": 1, "batch_size": 7}), trainer).batch_size == 7
