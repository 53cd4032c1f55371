"""All ranks of a run end together, whatever happens to one of them, and say why."""

import os
import signal
from pathlib import Path

import psutil
import pytest

import noether
from noether.errors import SpecError
from noether.testing import run_on_ranks

SAVES = {"kind": "checkpoint", "every_n_updates": 4}


def at(kind, *ranks, **options):
    return {"kind": f"lab.ranks.{kind}", "ranks": list(ranks), **options}


def committed(run_dir):
    """Return the updates of all checkpoints."""
    return sorted(int(step.name.removeprefix("step-")) for step in (run_dir / "checkpoints").glob("step-*"))


def require_none_left(pids):
    assert [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"] == []


@pytest.mark.parametrize("ranks", [[0], [1], pytest.param([0, 1], marks=pytest.mark.long)], ids=str)
def test_sigterm_to_any_rank_commits_the_same_update_on_all(on, ranks):
    ends = on(2, {"trainer.callbacks": [at("Signals", *ranks, numbers=[signal.SIGTERM])]})
    assert [(end.code, end.error) for end in ends] == [(143, None)] * 2
    assert committed(ends[0].run_dir) in ([5], [6])


@pytest.mark.long
def test_a_run_that_was_stopped_by_a_signal_goes_on_to_the_same_bytes(on):
    stops = at("Signals", 1, numbers=[signal.SIGTERM])
    on(3, {"trainer.callbacks": [stops]}, run_id="stopped")
    changes = {"trainer.callbacks": [{**stops, "update": 99}]}
    resumed = on(3, changes, run_id="stopped", resume="auto", allow_spec_change=True)
    straight = on(3, changes, run_id="straight")
    assert [end.code for end in resumed] == [0, 0, 0]
    assert resumed[0].files == straight[0].files
    assert list(resumed[0].losses) == list(straight[0].losses)


def test_an_exception_on_one_rank_ends_all_with_its_message(started, figures):
    with started(2, {"trainer.callbacks": [at("Raises", 1)]}) as ranks:
        pids, ends = ranks.pids, ranks.ends()
    figures("an error on one rank", seconds=max(end.seconds for end in ends))
    assert [end.result.code for end in ends] == [1, 1]
    assert "rank 1: ValueError: out of paper on rank 1" in ends[0].result.error
    assert "out of paper on rank 1" in ends[1].result.error
    assert max(end.seconds for end in ends) < 30
    require_none_left(pids)


def on_its_own(specs, train, options):
    """Train another spec on each rank."""
    from noether.training.parallel.ranks import Place

    place = Place.of(os.environ)
    return train(specs[place.rank], options)


def test_ranks_with_different_specs_are_refused_with_the_rows_that_differ(spec, train):
    other = {**spec, "seed": 5, "trainer": {**spec["trainer"], "max_updates": 7}}
    ends = run_on_ranks(on_its_own, 2, [spec, other], train, {})
    assert {end.code for end in ends} == {2}
    assert "spec: seed: 5" in ends[0].error + ends[1].error
    assert "spec: trainer.max_updates: 7 (rank 0: 20)" in ends[0].error + ends[1].error


def test_a_spec_that_one_rank_refuses_ends_all(spec, train):
    wrong = {**spec, "trainer": {**spec["trainer"], "max_updatez": 7}}
    ends = run_on_ranks(on_its_own, 2, [spec, wrong], train, {})
    assert [end.code for end in ends] == [2, 2]
    assert "rank 1: " in ends[0].error
    assert "max_updatez" in ends[0].error


def is_printed_elsewhere(spec):
    with pytest.raises(SpecError) as caught:
        noether.run(spec, quiet=True)
    return caught.value.is_reported


def test_an_error_that_all_ranks_find_is_printed_by_one(spec):
    wrong = {**spec, "trainer": {**spec["trainer"], "effective_batch_size": 61}}
    assert sorted(run_on_ranks(is_printed_elsewhere, 3, wrong)) == [False, True, True]


def test_a_launch_that_is_not_described_whole_is_refused(spec, train, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    end = train(spec, {})
    assert end.code == 2
    assert "RANK" in end.error


def test_weights_that_one_rank_changes_alone_are_refused_at_the_next_save(on):
    ends = on(2, {"trainer.callbacks": [at("Strays", 1), SAVES]})
    assert [end.code for end in ends] == [1, 1]
    assert "different weights" in ends[0].error
    assert committed(ends[0].run_dir) == [4]


@pytest.mark.parametrize("ranks", [[1], [0, 1]], ids=str)
def test_buffers_that_differ_between_the_ranks_are_named(on, ranks):
    model = {"model.kind": "lab.ranks.Averaging", "model.only_on": ranks}
    ends = on(2, {**model, "trainer.callbacks": [SAVES]})
    log = (ends[0].run_dir / "log.txt").read_text()
    assert log.count("different buffers of the model: mean") == (1 if ranks == [1] else 0)


@pytest.mark.parametrize("ranks", [[1], [0, 1]], ids=str)
def test_a_callback_with_other_states_on_the_ranks_is_named_once(on, ranks):
    remembers = at("Remembers", *ranks, id="remembers")
    ends = on(2, {"trainer.callbacks": [remembers, SAVES]})
    log = (ends[0].run_dir / "log.txt").read_text()
    assert log.count("callback 'remembers' has other states on the ranks") == (1 if ranks == [1] else 0)


def test_a_loss_that_is_not_finite_on_one_rank_ends_all_at_the_same_update(on):
    ends = on(2, {"trainer.callbacks": [at("Poisons", 1), SAVES], "trainer.loss_fn": "lab.ranks.poisoned"})
    assert [end.code for end in ends] == [4, 4]
    assert "update 6" in ends[0].error
    assert committed(ends[0].run_dir) == [4]


@pytest.mark.long
def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_by_all(on):
    changes = {
        "trainer.callbacks": [at("Poisons", 1), SAVES],
        "trainer.loss_fn": "lab.ranks.poisoned",
        "trainer.skip_nan_loss": True,
    }
    ends = on(2, changes)
    assert [end.code for end in ends] == [0, 0]


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.long)])
def test_a_rank_that_hangs_ends_all_with_the_stacks_of_each(started, rank, figures):
    changes = {"trainer.callbacks": [at("Hangs", rank), SAVES]}
    with started(2, changes, {"NOETHER_RANK_TIMEOUT_S": "3"}, run_id="hangs") as ranks:
        pids, ends = ranks.pids, ranks.ends()
    figures("a hang", seconds=max(end.seconds for end in ends))
    hung, waiting = ends[rank], ends[1 - rank]
    assert hung.exit_code == 1
    assert waiting.result.code == 1
    assert "lab/ranks.py" in waiting.result.error  # the place where the other one is
    run = waiting.result.run_dir
    log = (run / "log.rank-00001.txt").read_text() if rank else (run / "log.txt").read_text() + hung.output
    assert "time.sleep(600)" in log or "in act" in log
    assert committed(run) == [4]
    require_none_left(pids)


def with_a_full_disk(spec, train, call):
    """Train with a disk that refuses rank 0 at a write of its second checkpoint."""
    import errno

    from noether.checkpoint import durable

    class Disk:
        calls = 0

        def __getattr__(self, name):
            if name == "write" and list(Path("runs").glob("*/checkpoints/step-*")):
                self.calls += 1
                if self.calls >= call and os.environ["RANK"] == "0":
                    return self.refuse
            return getattr(os, name)

        @staticmethod
        def refuse(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    durable.os = Disk()
    return train({**spec, "trainer": {**spec["trainer"], "callbacks": [SAVES]}}, {})


@pytest.mark.long
@pytest.mark.parametrize("call", [1, 4])
def test_a_disk_that_is_full_at_a_commit_ends_all_and_keeps_the_earlier_checkpoint(spec, train, two_ranks, call):
    ends = two_ranks(with_a_full_disk, spec, train, call)
    assert [end.code for end in ends] == [1, 1]
    assert "No space left on device" in ends[0].error
    assert "No space left on device" in ends[1].error
    assert committed(ends[0].run_dir) == [4]


@pytest.mark.long
def test_a_callback_may_copy_a_model_with_batch_norms(on):
    ends = on(2, {"trainer.max_updates": 6, "trainer.callbacks": [at("Copies", 0, 1)]})
    assert [(end.code, end.error) for end in ends] == [(0, None)] * 2


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_rank_that_fails_at_its_very_end_fails_all(on, rank):
    ends = on(2, {"trainer.max_updates": 2, "trainer.callbacks": [at("Closes", rank)]})
    assert [end.code for end in ends] == [1, 1]
    assert all(f"out of paper at the end of rank {rank}" in end.error for end in ends)
