"""A stop takes effect between two batches of an evaluation pass, and the resumed run repeats the round: E3."""

import json
import signal
from pathlib import Path

import pytest

from noether.checkpoint.paths import checkpoint_folders, read_checkpoint

PASS = {"kind": "lab.faults.Passes", "dataset_key": "test"}
SPEC = {
    "trainer.max_epochs": None,
    "trainer.max_updates": 8,
    "trainer.max_batch_size": 4,  # two accumulation steps an update
    "trainer.track_every_n_updates": 2,
    "trainer.monitor_training_stability": True,
    "model.dropout": 0.3,
    "model.optimizer.clip_grad_norm": 1.0,
    "model.optimizer.schedule": {"kind": "cosine"},
    "trainer.callbacks": [
        {"kind": "checkpoint", "every_n_updates": 5},
        {"kind": "lab.faults.Counts", "every_n_updates": 3},
        {**PASS, "id": "val", "every_n_updates": 3, "batch_size": 5},
        {
            "kind": "ema",
            "every_n_updates": 5,
            "target_factors": [0.5],
            "eval_callbacks": [{**PASS, "every_n_epochs": 1}],
        },
        {"kind": "offline-loss", "every_n_updates": 3, "dataset_key": "test"},
        {
            "kind": "best-checkpoint",
            "every_n_updates": 3,
            "metric_key": "loss/test/total",
            "tolerances": [1],
            "eval_callbacks": [PASS],
        },
    ],
}
BATCHES = 16  # of all passes that stops are tried in: 3 of `val` and 4 of the best checkpoint twice, 4 of the EMA once


@pytest.fixture(autouse=True)
def at_the_lab(lab):
    """Specs name classes of the project `lab`."""


@pytest.fixture
def ends_as(metric_lines):
    """Read all results of a run except times."""

    def read(outcome):
        manifest, files = read_checkpoint(checkpoint_folders(outcome.run_dir / "checkpoints")[-1])
        tree = json.loads(files.pop("trainer.json"))
        del tree["trainer"]["log_writer"]
        return (
            manifest.update,
            sorted(manifest.names),
            files,
            tree,
            lines_of(outcome.run_dir / "metrics.jsonl"),
            arrays(outcome),
        )

    def arrays(outcome):
        folder = outcome.run_dir
        results = lines_of(folder / "results.jsonl")
        files = [path.relative_to(folder).as_posix() for path in folder.glob("results/*/*")]
        assert sorted(files) == sorted(result["file"] for result in results)
        return lines_of(folder / "nonscalars.jsonl"), results

    return read


def lines_of(file):
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        del line["time"]
        if "metrics" in line:
            line["metrics"] = {k: v for k, v in line["metrics"].items() if not k.startswith("profiling/")}
    return lines


def stop_at(batch, *numbers):
    """Let a run send itself signals at a batch of its passes, counted from 1."""
    Path("signal-at.txt").write_text(" ".join(map(str, (batch, *map(int, numbers or (signal.SIGTERM,))))))


def trainer_state(outcome):
    _, files = read_checkpoint(checkpoint_folders(outcome.run_dir / "checkpoints")[-1])
    return json.loads(files["trainer.json"])


@pytest.mark.parametrize(("workers", "batches"), [(0, range(1, BATCHES + 1)), (2, (2, 5, 12))])
def test_a_run_stopped_at_any_batch_of_its_passes_ends_as_if_it_had_not_been(run, finish, ends_as, workers, batches):
    spec = {**SPEC, "loader.num_workers": workers}
    straight = ends_as(finish(spec))
    for batch in batches:
        stop_at(batch)
        stopped = run(spec, run_id=f"stopped-{batch}")
        assert (stopped.status, stopped.exit_code) == ("KILLED", 143)
        assert not Path("signal-at.txt").exists()
        assert ends_as(finish(spec, run_id=stopped.run_dir.name, resume="auto")) == straight, f"batch {batch}"


def test_the_update_is_committed_with_its_round_pending_and_nothing_of_that(run, attempt):
    stop_at(2)
    stopped = run(SPEC)
    state = trainer_state(stopped)
    assert state["trainer"]["round_pending"] is True
    assert (state["trainer"]["update"], state["trainer"]["ended"]) == (3, False)
    assert state["callbacks"]["counts"] == {"count": 3}, "what it counted in the round is there"
    assert all(line["update"] < 3 for line in lines_of(stopped.run_dir / "metrics.jsonl"))
    assert attempt(stopped)["reason"] == "SIGTERM"


def test_a_round_that_is_interrupted_again_and_again_is_repeated_until_it_is_whole(run, finish, ends_as):
    straight = ends_as(finish(SPEC))
    for batch in (4, 2, 5, 1):  # of the round after the third update: each attempt begins it anew
        stop_at(batch)
        assert run(SPEC, run_id="again", resume="auto").status == "KILLED"
    assert ends_as(finish(SPEC, run_id="again", resume="auto")) == straight


def test_the_round_of_the_last_update_may_be_interrupted_too(run, finish, ends_as):
    short = {**SPEC, "trainer.max_updates": 6}
    straight = ends_as(finish(short))
    stop_at(8)
    stopped = run(short, run_id="last")
    assert (stopped.status, stopped.exit_code) == ("KILLED", 143)
    assert trainer_state(stopped)["trainer"]["update"] == 6
    assert ends_as(finish(short, run_id="last", resume="auto")) == straight


def test_an_early_stop_of_the_same_update_is_not_forgotten(run, finish, ends_as):
    stops = {"kind": "lab.stops.StopsIn", "hook": "track_after_update_step", "at_update": 3, "every_n_updates": 8}
    spec = {**SPEC, "trainer.callbacks": [stops, *SPEC["trainer.callbacks"]]}
    straight = ends_as(finish(spec))
    assert straight[0] == 3
    stop_at(2)
    assert run(spec, run_id="early").status == "KILLED"
    assert ends_as(finish(spec, run_id="early", resume="auto")) == straight


def test_ctrl_c_that_saves_interrupts_a_pass_too(run):
    stop_at(2, signal.SIGINT)
    stopped = run({**SPEC, "trainer.save_on_sigint": True})
    assert (stopped.status, stopped.exit_code) == ("KILLED", 130)
    assert trainer_state(stopped)["trainer"]["round_pending"] is True


def test_a_round_without_a_pass_is_finished(run):
    signals = {"kind": "lab.callbacks.Signals", "every_n_updates": 3, "numbers": [int(signal.SIGTERM)]}
    counts = {"kind": "lab.faults.Counts", "every_n_updates": 3}
    stopped = run({"trainer.callbacks": [signals, counts]})
    assert stopped.status == "KILLED"
    state = trainer_state(stopped)
    assert state["trainer"]["round_pending"] is False
    assert state["callbacks"]["counts"] == {"count": 103}


def test_an_initializer_that_goes_on_from_a_pending_round_repeats_it(run, finish, ends_as):
    *_, lines, _ = ends_as(finish(SPEC))
    stop_at(2)
    run(SPEC, run_id="first")
    second = finish({**SPEC, "initializer": {"kind": "resume", "run_id": "first"}})
    after = [line for line in lines if line["update"] >= 3]
    assert ends_as(second)[4][1:] == after  # its first line has what is known before training
