"""Workers that die, hang, raise, or lose their trainer: J1 to J4; and memory that runs out: J5."""

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from noether.checkpoint import writer as checkpoint_writer
from noether.data.container import DataContainer
from noether.errors import TrainingError, text_of

EVERY_UPDATE = [{"kind": "checkpoint", "every_n_updates": 1}]
DEADLINE_S = 60


@pytest.fixture
def bad(lab):
    """Returns a spec whose training set has one bad sample, which two workers load."""

    def spec(action, workers=2, **options):
        return {
            "datasets.train": {"kind": "lab.faults.BadSamples", "action": action, **options},
            "loader.num_workers": workers,
            "trainer.callbacks": EVERY_UPDATE,
        }

    return spec


def is_alive(process):
    """Return True if a process runs; a zombie does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def gone_within(seconds, processes):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(is_alive, processes)):
        time.sleep(0.05)
    return not any(map(is_alive, processes))


def test_a_worker_that_is_killed_ends_the_run_at_once_and_is_named(run, bad, attempt, verified_updates):  # J1
    outcome = run(bad("die"))
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert "worker" in str(outcome.error)
    assert "was killed by SIGKILL" in str(outcome.error)
    record = attempt(outcome)
    assert record["ended"] - record["started"] < 10
    assert verified_updates(outcome.run_dir) == sorted(verified_updates(outcome.run_dir))


ENDS = {
    "exit 0": "ended with exit code 0",
    "exit 3": "ended with exit code 3",
    "killed": "was killed by SIGKILL",
    "sys.exit": "SystemExit while loading sample 11",
    "own": "OwnError while loading sample 11",
    "unpicklable": "UnpicklableError: my words",
    "broken text": "NoTextError: <its __str__ raised ZeroDivisionError>",
    "unsendable": "no way to send it",
    "exits": "ended with exit code 87",
}
FEW = ("exit 0", "unsendable")


@pytest.mark.parametrize("key", ["train", "test"])
@pytest.mark.parametrize(
    ("method", "action"),
    [
        pytest.param(method, action, marks=() if method == "fork" or action in FEW else pytest.mark.long)
        for method in ("fork", "forkserver", "spawn")
        for action in ENDS
    ],
)
def test_a_worker_that_leaves_is_noticed_and_named_for_every_start_method(run, lab, attempt, method, action, key):
    sets = {name: {"kind": "lab.leaving.Leaves", "collate": "lab.leaving.as_sent"} for name in ("train", "test")}
    sets[key]["action"] = action
    outcome = run(
        {
            "datasets": sets,
            "loader": {"num_workers": 2, "start_method": method},
            "trainer.callbacks": [{"kind": "offline-loss", "every_n_updates": 1, "dataset_key": "test"}],
        }
    )
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert ENDS[action] in "\n".join([text_of(outcome.error), *getattr(outcome.error, "__notes__", ())])
    assert "raised by" not in "".join(getattr(outcome.error, "__notes__", ()))
    assert attempt(outcome)["ended"] - float(Path("left.txt").read_text()) < 10


@pytest.mark.parametrize(("method", "code"), [("fork", 0), ("forkserver", 0), ("forkserver", -9), ("spawn", 0)])
def test_a_worker_that_leaves_in_the_middle_of_a_batch_is_noticed(lab, monkeypatch, method, code):
    monkeypatch.syspath_prepend(str(lab.parent))
    texts = importlib.import_module("lab.leaving").LongTexts(code)
    data = DataContainer(
        {"train": texts}, num_workers=2, start_method=method, prefetch_factor=2, collators={"train": list}
    )
    with pytest.raises(TrainingError) as caught:
        for _ in data.build_loader(batch_size=1, end_update=24, shuffle=False):
            pass
    assert "a worker process of the loader has ended" in caught.value.message


def test_a_worker_that_hangs_ends_the_run_after_the_timeout_and_is_killed(run, bad, attempt):  # J2
    outcome = run({**bad("hang"), "loader.timeout": 1.0})
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert isinstance(outcome.error, TrainingError)
    assert "within 1 s" in outcome.error.message
    assert "`timeout` under [loader]" in outcome.error.hint
    assert gone_within(1, [int(Path("hanging.txt").read_text())])
    record = attempt(outcome)
    assert record["ended"] - record["started"] < 15


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_sample_has_its_index_and_traceback(run, bad, workers):  # J4
    outcome = run(bad("raise", workers, bad=31))
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert isinstance(outcome.error, ArithmeticError)
    log = (outcome.run_dir / "log.txt").read_text()
    assert "sample 31 cannot be computed" in log
    assert "while loading sample 31 of the data set 'train' (lab.faults.BadSamples)" in log
    assert "in fail" in log


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_batch_has_its_indices(run, bad, workers):  # J4
    outcome = run(bad("raise", workers, bad=31, at_once=True))
    log = (outcome.run_dir / "log.txt").read_text()
    assert "sample 31 cannot be computed" in log
    (note,) = [line for line in log.splitlines() if "while loading samples" in line]
    assert "31" in note


def test_a_killed_trainer_leaves_no_workers_behind(tiny_spec):  # J3
    tiny_spec["trainer"] |= {"max_epochs": 10_000_000, "track_every_n_updates": 10}
    Path("long.toml").write_text(tomli_w.dumps(tiny_spec | {"loader": {"num_workers": 2}}))
    with Path("out.txt").open("w") as out:
        command = [sys.executable, "-m", "noether", "run", "long.toml", "--run-id", "long"]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    deadline, children = time.monotonic() + DEADLINE_S, []
    metrics = Path("runs/long/metrics.jsonl")
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert process.poll() is None and time.monotonic() < deadline, Path("out.txt").read_text()
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.wait()
    assert gone_within(10, children)


def test_a_busy_worker_does_not_delay_a_process_after_a_second_signal(tiny_spec, lab):
    tiny_spec["datasets"]["train"] = {"kind": "lab.faults.BadSamples", "action": "hang"}
    Path("long.toml").write_text(tomli_w.dumps(tiny_spec | {"loader": {"num_workers": 1}}))
    with Path("out.txt").open("w") as out:
        command = [sys.executable, "-m", "noether", "run", "long.toml", "--run-id", "long"]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    deadline = time.monotonic() + DEADLINE_S
    while not Path("hanging.txt").exists():
        assert process.poll() is None and time.monotonic() < deadline, Path("out.txt").read_text()
        time.sleep(0.02)
    time.sleep(0.5)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    try:
        assert process.wait(20) == 143
    finally:
        process.kill()
    assert gone_within(1, [int(Path("hanging.txt").read_text())])


@pytest.mark.parametrize("action", ["raise", "die"])
def test_a_run_that_lost_a_worker_goes_on_where_it_stopped(run, finish, bad, lab, action):
    spec = bad(action, unless="well.txt")
    run(spec, run_id="lost")
    Path("well.txt").touch()
    straight = finish(spec)
    resumed = finish(spec, run_id="lost", resume="auto")
    newest = [max((o.run_dir / "checkpoints").glob("step-*")) / "model.safetensors" for o in (straight, resumed)]
    assert newest[0].read_bytes() == newest[1].read_bytes()


# J5


def test_memory_that_runs_out_in_a_save_leaves_the_earlier_checkpoints(run, verified_updates, monkeypatch):
    encode = checkpoint_writer.encode_checkpoint

    def encode_until_full(state, request, *layouts):
        if state.update == 3:
            raise MemoryError
        return encode(state, request, *layouts)

    monkeypatch.setattr(checkpoint_writer, "encode_checkpoint", encode_until_full)
    outcome = run({"trainer.callbacks": EVERY_UPDATE})
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert isinstance(outcome.error, MemoryError)
    assert verified_updates(outcome.run_dir) == [1, 2]


def test_memory_that_runs_out_in_a_step_leaves_the_earlier_checkpoints(run, lab, attempt, verified_updates):
    outcome = run({"trainer.callbacks": EVERY_UPDATE, "trainer.loss_fn": "lab.losses.out_of_memory_in_update_3"})
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert type(outcome.error).__name__ == "OutOfMemoryError"
    assert verified_updates(outcome.run_dir) == [1, 2]
    assert attempt(outcome)["status"] == "FAILED"
