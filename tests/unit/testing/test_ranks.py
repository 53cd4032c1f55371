"""Ranks that a test starts: results and errors come back with their ranks, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import noether
from noether.core.callbacks import PeriodicCallback
from noether.testing import CallbackContract, RankError, run_on_ranks, started_ranks, tiny_spec
from noether.training.parallel import joined


def known(*arguments: Any) -> tuple[Any, ...]:
    with joined() as ranks:
        print("said on", ranks.rank)
        return ranks.rank, ranks.world, ranks.gather(10 * ranks.rank), *arguments


def fails_on(bad: int) -> None:
    with joined() as ranks:
        if ranks.rank == bad:
            raise ValueError("out of paper")
        ranks.gather(0)


def sleeps() -> None:
    time.sleep(600)


def leaves(code: int) -> None:
    os._exit(code)


class PerRank(PeriodicCallback):
    """Logs the number of its rank, and keeps it as its state."""

    def periodic_callback(self, **_: Any) -> None:
        self.writer.add_scalar("rank", self.trainer.parallel.rank)

    def state_dict(self) -> dict[str, Any]:
        return {"rank": self.trainer.parallel.rank}

    def load_state_dict(self, state_dict: Any) -> None:
        pass


class LogsTheWorld(PeriodicCallback):
    """Logs the world, which another number of ranks changes."""

    def periodic_callback(self, **_: Any) -> None:
        self.writer.add_scalar("world", self.trainer.parallel.world)


def test_a_function_runs_on_all_ranks_at_once(two_ranks) -> None:
    assert two_ranks(known, "a", 1.5) == [(0, 2, [0, 10], "a", 1.5), (1, 2, [0, 10], "a", 1.5)]


def test_a_run_is_one_of_all_ranks(two_ranks, spec_file) -> None:
    first, second = two_ranks(partial(noether.run, quiet=True), spec_file(tiny_spec()))
    assert first.run_dir == second.run_dir
    assert (first.status, second.status) == ("FINISHED", "FINISHED")


def test_an_error_names_its_rank_and_not_one_that_waited_for_it() -> None:
    with pytest.raises(RankError) as caught:
        run_on_ranks(fails_on, 3, 1)
    assert str(caught.value).startswith("rank 1 of 3: ")
    assert "out of paper" in str(caught.value)
    assert [end.kind for end in caught.value.ends] == ["RankLostError", "ValueError", "RankLostError"]


def test_ranks_that_hang_are_killed_and_their_stacks_shown() -> None:
    with started_ranks(sleeps, 2, within=2.0) as ranks:
        pids = ranks.pids
        with pytest.raises(RankError) as caught:
            ranks.ends()
    assert "in sleeps" in str(caught.value)
    require_gone(pids)


def test_a_rank_that_ends_without_a_result_has_its_exit_code_and_output() -> None:
    with started_ranks(leaves, 2, 3) as ranks:
        assert [(end.exit_code, end.result, end.error) for end in ranks.ends()] == [(3, None, None)] * 2
    with started_ranks(known, 2) as ranks:
        assert [end.output for end in ranks.ends()] == ["said on 0\n", "said on 1\n"]


def test_a_signal_reaches_the_ranks_that_it_is_for() -> None:
    with started_ranks(sleeps, 2) as ranks:
        ranks.send(signal.SIGKILL)
        assert [end.exit_code for end in ranks.ends()] == [-9, -9]


def test_a_test_that_leaves_the_ranks_alone_ends_them() -> None:
    with started_ranks(sleeps, 2) as ranks:
        pids = ranks.pids
    require_gone(pids)


def test_variables_may_be_those_of_one_rank() -> None:
    own = {"ALL": "1", "ONE@1": "2"}
    assert run_on_ranks(variables, 2, environment=own) == [("1", None), ("1", "2")]


def variables() -> tuple[str | None, str | None]:
    return os.environ.get("ALL"), os.environ.get("ONE")


@pytest.mark.parametrize(("broken", "words"), [(PerRank, "another state of"), (LogsTheWorld, "world is 2")])
def test_a_callback_that_depends_on_its_rank_fails_its_contract(
    noether_registry, tmp_path: Path, broken: type, words: str
) -> None:
    noether_registry("callback", "broken", broken)
    tested = type("Tested", (CallbackContract,), {"config": {"kind": "broken", "every_n_updates": 1}})()
    with pytest.raises(AssertionError, match=words):
        tested.test_two_ranks_have_its_state_and_the_metrics_of_one(tmp_path)


def require_gone(pids: list[int]) -> None:
    assert [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"] == []
