"""Length of a run: whole epochs, parts of one, a few updates, none at all."""

import pytest

from noether.checkpoint.manifest import NamedCheckpoint
from noether.checkpoint.paths import checkpoint_folders, read_checkpoint
from noether.errors import DataError, SpecError


def end_of(outcome):
    """Return epoch, update and sample of the newest checkpoint."""
    manifest, _ = read_checkpoint(checkpoint_folders(outcome.run_dir / "checkpoints")[-1])
    return manifest.epoch, manifest.update, manifest.sample


@pytest.mark.parametrize(
    ("limit", "end"),
    [
        ({"max_epochs": 2}, (2, 12, 96)),
        ({"max_updates": 8}, (1, 8, 64)),
        ({"max_samples": 64}, (1, 8, 64)),
        ({"max_samples": 65}, (1, 9, 72)),  # the update that reaches the limit is the last
    ],
)
def test_a_run_ends_at_its_limit_also_within_an_epoch(finish, limit, end):
    assert end_of(finish({"trainer.max_epochs": None, **{f"trainer.{k}": v for k, v in limit.items()}})) == end


@pytest.mark.parametrize("updates", [1, 2, 3])
def test_a_run_of_a_few_updates_works_with_the_default_callbacks(finish, metric_lines, updates):
    lines = metric_lines(finish({"trainer.max_epochs": None, "trainer.max_updates": updates}))
    assert [line["update"] for line in lines] == list(range(updates + 1))
    assert lines[-1]["metrics"].keys() >= {
        "loss/online/total",
        "optim/lr",
        "profiling/forward_time",
        "profiling/peak_memory_gib",
        "profiling/remaining_seconds",
    }


@pytest.mark.parametrize("unit", ["max_epochs", "max_updates", "max_samples"])
def test_a_limit_of_zero_evaluates_once_and_trains_nothing(finish, lab, metric_lines, unit):
    diary = {"kind": "lab.callbacks.Diary", "id": "diary", "every_n_epochs": 5}
    watch = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    limit = {"trainer.max_epochs": None, f"trainer.{unit}": 0}
    outcome = finish({**limit, "trainer.callbacks": [diary, watch]})
    calls = ["before_training E0_U0_S0", "diary: eval E0_U0_S0", "after_training E0_U0_S0", "close"]
    assert (lab.parent / "calls.txt").read_text().splitlines() == calls
    assert "loss/test/total" in metric_lines(outcome)[0]["metrics"]
    assert checkpoint_folders(outcome.run_dir / "checkpoints") == []


def test_a_limit_of_zero_needs_no_training_set(finish):
    watch = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    outcome = finish({"trainer.max_epochs": 0, "datasets.train": None, "trainer.callbacks": [watch]})
    assert outcome.metrics["loss/test/total"] > 0


def test_start_at_epoch_begins_there_with_order_schedule_and_counters(finish, lab, metric_lines):
    schedule = {"kind": "linear", "start": 1.0, "end": 0.0}
    outcome = finish(
        {
            "trainer.max_epochs": 3,
            "trainer.start_at_epoch": 2,
            "model.optimizer": {"kind": "AdamW", "lr": 0.01, "schedule": schedule},
            "trainer.callbacks": [{"kind": "lab.callbacks.Batches", "every_n_updates": 1}],
        }
    )
    assert end_of(outcome) == (3, 18, 144)
    lines = metric_lines(outcome)
    assert lines[0]["update"] == 12
    assert lines[1]["metrics"]["optim/lr"] == pytest.approx(0.01 * (1 - 12 / 18))
    finish({"trainer.max_epochs": 3, "trainer.callbacks": [{"kind": "lab.callbacks.Batches", "every_n_updates": 1}]})
    late, whole = ((lab.parent / "batches.txt").read_text().splitlines()[part] for part in (slice(6), slice(6, None)))
    assert late == whole[12:]


def test_a_data_set_smaller_than_a_batch_is_refused(run, workplace):
    with pytest.raises(DataError) as found:
        run({"trainer.effective_batch_size": 49})
    assert "48 samples" in found.value.message
    assert "at most 48" in found.value.hint
    assert not (workplace / "runs").exists()


def test_a_batch_as_large_as_the_data_set_is_one_update_an_epoch(finish):
    assert end_of(finish({"trainer.effective_batch_size": 48})) == (2, 2, 96)


def test_samples_that_fill_no_update_are_left_out_of_the_epoch(finish):
    assert end_of(finish({"trainer.effective_batch_size": 20})) == (2, 4, 80)


@pytest.mark.parametrize("limits", [{"max_epochs": None}, {"max_updates": 4}])
def test_no_limit_and_two_limits_are_refused(run, limits):
    with pytest.raises(SpecError) as caught:
        run({f"trainer.{name}": value for name, value in limits.items()})
    assert "max_epochs" in str(caught.value)


def test_the_last_step_keeps_the_names_that_a_callback_gave_it(finish):
    outcome = finish({"trainer.callbacks": [{"kind": "checkpoint", "every_n_updates": 6}]})
    earlier, last = (read_checkpoint(step)[0] for step in checkpoint_folders(outcome.run_dir / "checkpoints"))
    assert earlier.names == {}
    assert last.names == {"last": NamedCheckpoint(last.update)}
    assert (earlier.parent, last.parent) == (None, "step-000000000006")
