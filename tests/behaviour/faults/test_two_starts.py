"""Two processes that start one run: never two writers, in whatever order they start, copy the folder and die."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from noether.checkpoint.commit import RunLostError
from noether.errors import UsageError
from noether.runs.folder.lock import RunLock

CONTENDER = Path(__file__).with_name("contender.py")
ENDS = list(itertools.product(["kill", "end"], repeat=2))
STEPS = ["start", "copy", "write"]


class Contender:
    """One of the two processes; see `contender.py`.

    Attributes:
        pid: The process that contends now; None if it has ended.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid: int | None = None
        self._process = subprocess.Popen(
            [sys.executable, str(CONTENDER), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def begin(self, run: Path) -> None:
        self.pid = self.order(f"begin {run}")

    def order(self, text: str) -> object:
        self._write(text)
        return self._answer()

    def leave(self, how: str) -> None:
        """Let the process that contends end, or kill it."""
        assert self.pid is not None
        if how == "kill":
            os.kill(self.pid, signal.SIGKILL)
        else:
            self._write("end")
        assert self._answer() is None
        self.pid = None

    def over(self) -> None:
        self._write("over")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _write(self, text: str) -> None:
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> object:
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def contenders():
    both = Contender("a"), Contender("b")
    yield both
    for one in both:
        one.close()


def interleavings(first, second):
    """Yield every order of two programs: in which of the places the steps of the first one are."""
    count = len(first) + len(second)
    for places in itertools.combinations(range(count), len(first)):
        steps = iter(first), iter(second)
        yield [(0, next(steps[0])) if place in places else (1, next(steps[1])) for place in range(count)]


def play(contenders, run, schedule):
    """Do the steps of a schedule, and compare each with what one lock allows; return how many starts were refused."""
    for one in contenders:
        one.begin(run)
    holder, written, refused = None, "", 0
    for who, step in schedule:
        one = contenders[who]
        if step in ("kill", "end"):
            one.leave(step)
            holder = None if holder is one else holder
        elif step == "start":
            said, free = one.order("start"), holder is None
            assert (said == "started") == free, schedule
            assert free or f"in use by process {holder.pid} " in said, "the loser is told who holds it"
            holder, refused = one if free else holder, refused + (not free)
        elif step == "copy":
            assert one.order("copy") == "copied"
        else:
            may = holder is one
            assert one.order("write") == ("written" if may else "refused"), schedule
            written += one.name if may else ""
    assert (run / "written").read_text() == written
    for one in contenders:
        one.over()
    return refused


@pytest.mark.parametrize(
    "ends", [pytest.param(ends, marks=[pytest.mark.long] if "end" in ends else []) for ends in ENDS], ids="-".join
)
def test_of_two_starts_one_writes_in_every_order_of_lock_copy_and_kill(  # I1
    contenders, tmp_path, figures, ends
):
    programs = [[*STEPS, end] for end in ends]
    schedules = list(interleavings(*programs))
    refused = 0
    for number, schedule in enumerate(schedules):
        run = tmp_path / f"run-{number}"
        run.mkdir()
        (run / "written").touch()
        refused += play(contenders, run, schedule)
    assert refused > len(schedules) // 2
    figures("two starts", orders=len(schedules), refused=refused, two_writers=0)


@pytest.mark.long
def test_starts_again_and_again_in_every_order(contenders, tmp_path, figures):  # I1
    again = ["start", "copy", "write", "write", "copy", "kill"]
    schedules = list(interleavings(again, ["copy", "start", "write", "kill"]))
    for number, schedule in enumerate(schedules):
        run = tmp_path / f"run-{number}"
        run.mkdir()
        (run / "written").touch()
        play(contenders, run, schedule)
    figures("two starts", orders=len(schedules), refused=0, two_writers=0)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("on_save_error", ["raise", "warn"])
@pytest.mark.parametrize("what", ["run", "lock"])
def test_a_run_that_is_not_its_own_any_more_ends_and_touches_nothing(run, lab, what, on_save_error, asynchronous):
    callbacks = [
        {"kind": "lab.chaos.Replaced", "every_n_updates": 1, "at_update": 5, "what": what},
        {"kind": "checkpoint", "every_n_updates": 3},
    ]
    saves = {"checkpoints.asynchronous": asynchronous, "checkpoints.on_save_error": on_save_error}
    outcome = run({"trainer.callbacks": callbacks, **saves}, run_id="mine")
    assert isinstance(outcome.error, RunLostError)
    found, before = contents(Path("runs/mine")), contents(Path("runs/as-it-was"))
    if what == "lock":  # the log and the metrics are open, and still its own
        for name in ("log.txt", "metrics.jsonl"):
            assert found.pop(name).startswith(before.pop(name))
    assert found == before


def test_of_two_starts_without_resume_the_loser_is_told_who_won(run, lab):
    run({}, run_id="mine")
    with RunLock(Path("runs/mine")), pytest.raises(UsageError) as caught:
        run({}, run_id="mine")
    assert "in use by this process" in caught.value.message


def test_a_folder_in_which_a_killed_process_began_nothing_is_taken(finish, lab):
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/LOCK").write_text("")
    assert finish({}, run_id="mine").status == "FINISHED"
