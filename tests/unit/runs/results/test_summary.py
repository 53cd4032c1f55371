"""The summary of a run folder, sound or damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from noether.checkpoint.paths import PathProvider
from noether.errors import UsageError
from noether.runs.folder.lock import RunLock
from noether.runs.folder.run_folder import find_run
from noether.runs.results.summary import RunSummary, summaries_in, summary_of


@pytest.fixture
def run(four_runs: Path, tmp_path: Path) -> Path:
    """A copy of one of the runs."""
    return Path(shutil.copytree(four_runs / "lr0.01-seed0", tmp_path / "runs" / "mine"))


def summary(run: Path) -> RunSummary:
    return summary_of(PathProvider(run.parent, run.name))


def rewrite(path: Path, **changes: object) -> None:
    body = json.loads(path.read_text()) | changes
    body.pop("sha256", None)
    path.write_text(json.dumps(body))


def test_a_finished_run_is_summed_up(run: Path) -> None:
    found = summary(run)
    assert (found.run_id, found.name, found.status, found.seed) == ("mine", "tiny", "FINISHED", 0)
    assert (found.update, found.epoch, found.sample) == (12, 2, 96)
    assert found.problem is found.error is None
    assert found.created is not None
    assert found.seconds > 0
    assert found.tables["model"]["hidden"] == [8]
    assert [one.name for one in found.checkpoints] == ["E1_U6_S48", "E2_U12_S96"]


def test_each_evaluation_has_its_best_and_last_value_with_update_and_checkpoint(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for found in summary(run).evaluations:
        values = {line["update"]: line["metrics"][found.key] for line in lines if found.key in line["metrics"]}
        best = {"min": min, "max": max}[found.direction or "none"](values, key=lambda update: values[update])
        assert (found.best, found.best_update) == (values[best], best)
        assert (found.final, found.final_update, found.final_epoch) == (values[12], 12, 2)
        assert found.checkpoint == {6: "E1_U6_S48", 12: "E2_U12_S96"}[best]
    assert {found.key for found in summary(run).evaluations} >= {"loss/test/total", "rmse/test/y", "r2/test/y"}
    assert "optim/lr" in summary(run).metrics


def test_a_checkpoint_that_was_removed_is_not_named(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    assert {found.checkpoint for found in summary(run).evaluations} == {None}


@pytest.mark.parametrize(
    ("callbacks", "direction"),
    [
        ({"kind": "best-checkpoint", "metric_key": "mine", "higher_is_better": True}, "max"),
        ({"kind": "ema", "callbacks": [{"metric_key": "mine", "higher_is_better": False}]}, "min"),
        ({"kind": "best-checkpoint", "metric_key": "mine", "higher_is_better": None}, None),
    ],
)
def test_the_spec_may_state_the_direction_of_a_metric(
    run: Path, callbacks: dict[str, object], direction: str | None
) -> None:
    (run / "metrics.jsonl").write_text(
        '{"update": 1, "epoch": 0, "sample": 8, "time": 1.0, "metrics": {"mine": 3.0}}\n'
    )
    text = "[trainer]\n" + "callbacks = [" + _inline(callbacks) + "]\n"
    (run / "spec.resolved.toml").write_text(text)
    (found,) = summary(run).evaluations
    assert found.direction == direction
    assert found.best == (3.0 if direction else None)


def _inline(table: dict[str, object]) -> str:
    parts = []
    for key, value in table.items():
        if isinstance(value, list):
            parts.append(f"{key} = [{', '.join(map(_inline, value))}]")
        elif value is not None:
            parts.append(f"{key} = {json.dumps(value)}")
    return "{" + ", ".join(parts) + "}"


def test_a_run_that_goes_on_is_running(run: Path) -> None:
    rewrite(run / "attempts" / "0001.json", status="RUNNING")
    with RunLock(run):
        assert summary(run).status == "RUNNING"
    killed = summary(run)
    assert (killed.status, killed.error is not None) == ("KILLED", True)


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_did_not_reach_its_end_says_why(run: Path, status: str) -> None:
    rewrite(run / "attempts" / "0001.json", status=status, reason="the disk is full")
    found = summary(run)
    assert (found.status, found.error) == (status, "the disk is full")


def test_the_time_of_all_attempts_is_added(run: Path) -> None:
    for number in range(1, 31):
        record = {"started": number * 100, "ended": number * 100 + 2, "status": "KILLED"}
        (run / "attempts" / f"{number:04d}.json").write_text(json.dumps(record))
    assert summary(run).seconds == 60


def test_a_run_in_which_nothing_began_is_unknown(run: Path) -> None:
    for name in ("attempts", "checkpoints"):
        shutil.rmtree(run / name)
    for name in ("metrics.jsonl", "spec.resolved.toml", "spec.toml"):
        (run / name).unlink()
    found = summary(run)
    assert (found.status, found.update, found.evaluations, found.problem) == ("UNKNOWN", 0, (), None)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda run: (run / "run.json").unlink(), "run.json"),
        (lambda run: _cut(run / "run.json"), "run.json"),
        (lambda run: rewrite(run / "run.json", format=9), "format 9"),
        (lambda run: _cut(run / "spec.resolved.toml"), "spec.resolved.toml"),
        (lambda run: _link(run / "metrics.jsonl"), "link"),
        (lambda run: _cut(run / "metrics.jsonl"), "1 damaged line:"),
        (lambda run: _append(run / "metrics.jsonl", "garbage\n"), "1 damaged line:"),
        (
            lambda run: _append(run / "metrics.jsonl", '{"update": 3, "e{"update": 4, "metrics": {}}\n'),
            "1 damaged line:",
        ),
        (lambda run: _link(run / "checkpoints"), "link"),
        (lambda run: _link(run / "attempts"), "link"),
    ],
)
def test_a_damaged_folder_is_summed_up_as_far_as_it_can_be_read(
    run: Path, damage: Callable[[Path], object], named: str
) -> None:
    if named == "spec.resolved.toml":
        shutil.rmtree(run / "checkpoints")  # they hold copies
    damage(run)
    (found,) = summaries_in(run.parent)
    assert found.problem is not None
    assert named in found.problem
    assert found.run_id == "mine"


def test_a_folder_of_runs_is_listed_by_age_without_what_is_no_run(four_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(four_runs, tmp_path / "runs"))
    (runs / "notes").mkdir()
    (runs / "notes.txt").write_text("mine")
    (runs / "again").symlink_to("lr0.01-seed0")
    found = summaries_in(runs)
    assert [one.run_id for one in found] == ["lr0.01-seed0", "lr0.01-seed1", "lr0.001-seed0", "lr0.001-seed1"]
    assert all(one.paths.run_path == find_run(one.run_id, runs).run_path for one in found)


def test_a_folder_that_holds_no_runs_is_refused_by_what_it_is(run: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text("spec = 1")
    for wrong in (run, tmp_path / "spec.toml", tmp_path / "nothing"):
        with pytest.raises(UsageError) as caught:
            summaries_in(wrong)
        assert caught.value.hint
