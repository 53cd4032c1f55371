"""A run that is interrupted at any update, or inside of one, ends with the same result."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

EPOCHS, UPDATES_PER_EPOCH, BATCH = 3, 5, 8
END = EPOCHS * UPDATES_PER_EPOCH
IN_CI, ALL = [UPDATES_PER_EPOCH, 7, 11], list(range(1, END))
POINTS = [pytest.param(IN_CI, id="some"), pytest.param(ALL, id="all", marks=pytest.mark.chaos)]
COUNTS = {"kind": "lab.callbacks.Counts", "every_n_updates": 1}
EVALUATES = {"kind": "offline-loss", "every_n_updates": 2, "dataset_key": "test"}
SAVES = {"kind": "checkpoint", "every_n_updates": 1}
BEST = {"kind": "best-checkpoint", "every_n_updates": 2, "metric_key": "loss/test/total", "tolerances": [1]}
CALLBACKS = [
    EVALUATES,
    BEST,
    {"kind": "metric-early-stopper", "every_n_updates": 2, "metric_key": "loss/test/total", "patience": 1000},
    {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5], "eval_callbacks": [EVALUATES, BEST]},
    SAVES,
]


@pytest.fixture
def settings(lab):
    """Noise in every sample, dropout, accumulation, averages, and a checkpoint of every update."""
    return {
        "datasets.train": {"kind": "lab.data.Noisy", "split": "train"},
        "datasets.test": {"kind": "lab.data.Noisy", "split": "test", "samples": 9},
        "model.dropout": 0.2,
        "model.optimizer.schedule": "cosine",
        "trainer.max_epochs": EPOCHS,
        "trainer.max_batch_size": 2,
        "trainer.track_every_n_updates": 2,
        "trainer.callbacks": CALLBACKS,
        "checkpoints.keep_last": END,
    }


@pytest.fixture
def everything(remains):
    """Return all comparable results of a run, including the state of the trainer."""

    def of(outcome):
        step = max((outcome.run_dir / "checkpoints").glob("step-*"))
        trainer = json.loads((step / "trainer.json").read_bytes())
        bytes_of_metrics = trainer["trainer"].pop("log_writer")["metrics"]
        assert bytes_of_metrics == (outcome.run_dir / "metrics.jsonl").stat().st_size
        return {**remains(outcome), "trainer": trainer}

    return of


@pytest.fixture
def unequal(finish, everything):
    """Continues copies of a run after some of its updates; returns those after which it does not end the same."""

    def compare(outcome, points, changes):
        expected, found = everything(outcome), []
        for update in points:
            shutil.copytree(outcome.run_dir, outcome.run_dir.with_name(f"from-{update}"))
            position = f"E{update // UPDATES_PER_EPOCH}_U{update}_S{update * BATCH}"
            resumed = finish(changes, run_id=f"from-{update}", resume=position)
            if everything(resumed) != expected:
                found.append(update)
        return found

    return compare


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize(("workers", "workers_later"), [(0, 0), (2, 2), (0, 2), (2, 0), (2, 3)])
def test_a_run_ends_the_same_from_every_update_with_any_workers(  # E1
    finish, settings, unequal, figures, points, workers, workers_later
):
    run = finish({**settings, "loader.num_workers": workers}, run_id="whole")
    different = unequal(run, points, {**settings, "loader.num_workers": workers_later})
    assert different == []
    figures("resume points", equal=len(points), all=len(points))


@pytest.mark.parametrize("points", POINTS)
def test_a_run_in_half_precision_goes_on_with_its_scale(finish, settings, unequal, figures, points):  # E1
    half = {**settings, "trainer.precision": "float16"}
    different = unequal(finish(half, run_id="whole"), points, half)
    assert different == []
    figures("resume points", equal=len(points), all=len(points))


@pytest.fixture
def interrupted(run, finish, settings, everything, figures):
    """Interrupt a run, continue it, and return True if it ends as an uninterrupted one."""

    def is_equal(**how):
        interrupts = {"kind": "lab.chaos.Interrupts", "every_n_updates": 2, **how}
        changes = {**settings, "trainer.callbacks": [interrupts, *CALLBACKS]}
        Path("interrupted").touch()
        expected = everything(finish(changes, run_id="whole"))
        Path("interrupted").unlink()
        broken = run(changes, run_id="broken")
        assert broken.status == {"raise": "FAILED", "signal": "KILLED"}[how["action"]]
        equal = everything(finish(changes, run_id="broken", resume="auto")) == expected
        figures("resume points", equal=int(equal), all=1)
        return equal

    return is_equal


@pytest.mark.parametrize("action", ["raise", "signal"])
@pytest.mark.parametrize("accumulation_step", [0, *(pytest.param(step, marks=pytest.mark.chaos) for step in (1, 2)), 3])
def test_an_update_interrupted_between_its_accumulation_steps_is_computed_again_or_finished(  # E2
    interrupted, accumulation_step, action
):
    assert interrupted(where="accumulation", at_update=7, at_part=accumulation_step, action=action)


@pytest.mark.parametrize("action", ["raise", "signal"])
@pytest.mark.parametrize("batch", [0, 3])
def test_an_interrupted_evaluation_is_done_again_and_its_metrics_are_there_once(interrupted, batch, action):  # E3
    assert interrupted(where="evaluation", at_update=8, at_part=batch, action=action)


ORDERS = list(itertools.permutations(["before", "saves", "after"]))


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_where_the_checkpoint_callback_stands_among_others_does_not_matter(  # E4
    finish, settings, unequal, everything, order
):
    named = {"saves": SAVES, "before": {**COUNTS, "id": "before"}, "after": {**COUNTS, "id": "after"}}
    changes = {**settings, "trainer.callbacks": [named[name] for name in order]}
    run = finish(changes, run_id="whole")
    for update in (7, END):
        step = run.run_dir / "checkpoints" / f"step-{update:012d}"
        states = json.loads((step / "trainer.json").read_bytes())["callbacks"]
        assert (states["before"], states["after"]) == ({"count": update}, {"count": update})
    assert unequal(run, [7], changes) == []


def test_a_run_that_has_only_partial_saves_begins_at_its_beginning(run, finish, settings, everything):  # A4
    whole_saves = {"kind": "checkpoint", "every_n_updates": 6}
    interrupts = {"kind": "lab.chaos.Interrupts", "every_n_updates": 1, "where": "evaluation", "action": "raise"}
    changes = {
        **settings,
        "trainer.callbacks": [EVALUATES, BEST, whole_saves, {**interrupts, "at_update": 4, "at_part": 0}],
    }
    assert run(changes, run_id="broken").status == "FAILED"
    assert [path.name for path in Path("runs/broken/checkpoints").glob("step-*")] == [f"step-{2:012d}"]
    resumed = finish(changes, run_id="broken", resume="auto")
    assert everything(resumed) == everything(finish(changes, run_id="whole"))
