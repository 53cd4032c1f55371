"""Nothing that a resume or a kill leaves in a run folder grows without a bound, and no metric is written twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from noether.checkpoint.paths import PathProvider
from noether.runs.results.checkpoints import prune_run
from noether.runs.resume.continuation import move_newer_aside


def abandoned(run):
    return sorted(path.name for path in (run / "abandoned").iterdir())


def test_checkpoints_that_resumes_move_aside_have_a_bound(failed, finish, settings):
    for _ in range(3):
        finish(settings, run_id="mine", resume="auto")
        finish(settings, run_id="mine", resume="E0_U3_S24")
    moved_each_time = len(list((failed.run_dir / "checkpoints").glob("step-*"))) - 2
    assert len(abandoned(failed.run_dir)) <= 3 + moved_each_time


def test_the_checkpoints_that_were_moved_aside_last_stay_whatever_their_updates(failed, finish, settings):
    moved = failed.run_dir / "abandoned"
    for number, update in enumerate((90, 91, 92, 2, 1)):  # an update of 90 was moved first
        folder = moved / f"step-{update:012d}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    finish(settings, run_id="mine", resume="E0_U3_S24")
    assert [int(name[-12:]) for name in abandoned(failed.run_dir) if int(name[-12:]) not in (4, 6, 8)] == [1, 2, 92]


def test_what_the_user_has_put_in_the_folder_of_a_run_stays(failed, finish, settings):
    own = [failed.run_dir / name for name in ("abandoned/0-why.txt", "abandoned/notes", "damaged/0-why", "my.new")]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    for number in range(12):
        (failed.run_dir / f"damaged/{number + 1:04d}-log.txt").touch()
        (failed.run_dir / f"abandoned/step-{number:012d}").mkdir()
    (failed.run_dir / "run.json").write_text("damaged")
    finish(settings, run_id="mine", resume="E0_U3_S24")
    prune_run(PathProvider("runs", "mine"))
    assert [path.read_text() for path in own] == ["mine"] * len(own)
    assert abandoned(failed.run_dir) == ["0-why.txt", "notes"]


def test_prune_knows_the_checkpoints_that_were_moved_aside(failed, finish, settings, noether_command):
    finish(settings, run_id="mine", resume="E0_U3_S24")
    names = abandoned(failed.run_dir)
    assert names
    ended = noether_command("checkpoint", "prune", failed.run_dir, "--dry-run")
    assert all(f"abandoned/{name}" in ended.out for name in names)
    assert abandoned(failed.run_dir) == names
    noether_command("checkpoint", "prune", failed.run_dir)
    assert abandoned(failed.run_dir) == []


def test_a_link_in_the_place_of_abandoned_is_not_followed(failed):
    elsewhere = Path("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (failed.run_dir / "abandoned").symlink_to(elsewhere.absolute())
    paths = PathProvider("runs", "mine")
    prune_run(paths)
    with pytest.raises(Exception, match="link"):
        move_newer_aside(paths, 3)
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


def test_files_that_a_killed_process_was_about_to_put_in_place_are_swept(failed, finish, settings):
    leftovers = [failed.run_dir / ".run.json.123.tmp", failed.run_dir / "attempts" / ".0002.json.77.tmp"]
    for path in leftovers:
        path.touch()
    finish(settings, run_id="mine", resume="auto")
    assert not any(path.exists() for path in leftovers)


def test_a_start_that_was_killed_before_it_began_anything_is_no_run(finish, settings):
    Path("runs/mine").mkdir(parents=True)
    for name in ("LOCK", ".run.json.123.tmp"):
        (Path("runs/mine") / name).touch()
    assert finish({**settings, "trainer.callbacks": []}, run_id="mine").status == "FINISHED"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("every", [5, 6])
def test_a_failure_in_after_training_writes_no_line_twice(run, finish, settings, remains, asynchronous, every):
    tells = {"kind": "lab.metrics.AtTheEnd", "every_n_epochs": 1}
    fails = {"kind": "lab.failing.FailsAtTheEnd", "every_n_epochs": 1}
    saves = {"kind": "checkpoint", "every_n_updates": every}
    changes = {
        **settings,
        "trainer.callbacks": [*settings["trainer.callbacks"][:1], tells, fails, saves],
        "checkpoints.asynchronous": asynchronous,
    }
    assert run(changes, run_id="mine").status == "FAILED"
    resumed = finish(changes, run_id="mine", resume="auto")
    lines = [json.loads(line) for line in (resumed.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "at/the/end" in line["metrics"]]) == 1
    whole = finish(changes, run_id="whole")
    assert remains(resumed) == remains(whole)
