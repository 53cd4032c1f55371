"""A stopped run continues at its last checkpoint, by the same command or by `noether resume`."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import pytest

import noether
from noether.checkpoint.paths import checkpoint_folders
from noether.checkpoint.saved import CheckpointNames
from noether.errors import CheckpointError, UsageError
from noether.runs.folder.lock import RunLock
from noether.runs.resume.resume import resume


@pytest.fixture
def spec_file(tiny_spec, settings, workplace):
    """The spec as a file, for commands."""
    import tomli_w

    path = workplace / "mine.toml"
    path.write_text(tomli_w.dumps(_with(tiny_spec, settings)))
    return path


def _with(spec, settings):
    spec = json.loads(json.dumps(spec))
    for key, value in settings.items():
        *tables, last = key.split(".")
        target = spec
        for table in tables:
            target = target.setdefault(table, {})
        target[last] = value
    return spec


def steps(outcome):
    return [int(step.name.removeprefix("step-")) for step in checkpoint_folders(outcome.run_dir / "checkpoints")]


# The same bytes


def test_a_run_that_failed_goes_on_and_ends_with_the_same_bytes_and_metrics(
    failed, finish, settings, uninterrupted, remains
):
    resumed = finish(settings, run_id="mine", resume="auto")
    assert remains(resumed) == remains(uninterrupted)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_may_go_on_with_another_number_of_workers(failed, finish, settings, uninterrupted, remains, workers):
    resumed = finish({**settings, "loader.num_workers": workers}, run_id="mine", resume="auto")
    assert remains(resumed) == remains(uninterrupted)


@pytest.mark.parametrize("name", ["E0_U3_S24", "E1_U6_S48"])
def test_it_may_go_on_from_an_older_checkpoint(failed, finish, settings, uninterrupted, remains, name):
    finish(settings, run_id="mine", resume="auto")
    again = finish(settings, run_id="mine", resume=name)
    assert remains(again) == remains(uninterrupted)


def test_a_name_whose_step_is_gone_is_given_up_when_an_older_checkpoint_is_resumed(finish, settings, lab):
    (lab.parent / "failed-once").touch()
    outcome = finish(settings, run_id="mine")
    names = CheckpointNames(outcome.run_dir / "checkpoints")
    best = next(name for name in names.find("E0_U3_S24").saved.manifest.names if name.startswith("best_model"))
    shutil.rmtree(outcome.run_dir / "checkpoints" / "step-000000000002")
    stops = {"kind": "fixed-early-stopper", "stop_at_update": 4}
    few = [each for each in settings["trainer.callbacks"] if each["kind"] == "checkpoint"]
    finish({**settings, "trainer.callbacks": [*few, stops]}, run_id="mine", resume="E0_U3_S24")
    assert best not in names.known()


def test_steps_after_the_one_that_is_resumed_are_kept_aside(failed, run, settings):
    newer = steps(failed)[-1]
    run(settings, run_id="mine", resume="E0_U3_S24")
    assert f"step-{newer:012d}" in {path.name for path in (failed.run_dir / "abandoned").iterdir()}


def test_a_damaged_newest_checkpoint_costs_no_more_than_its_updates(
    failed, finish, settings, uninterrupted, remains, caplog
):
    (failed.run_dir / "checkpoints" / "step-000000000006" / "optimizer.safetensors").write_bytes(b"torn")
    resumed = finish(settings, run_id="mine", resume="auto")
    assert remains(resumed) == remains(uninterrupted)


def test_a_run_that_died_before_its_first_checkpoint_begins_at_its_beginning(
    failed, finish, settings, uninterrupted, remains
):  # A4
    shutil.rmtree(failed.run_dir / "checkpoints")
    resumed = finish(settings, run_id="mine", resume="auto")
    assert remains(resumed) == remains(uninterrupted)


def test_a_run_that_died_before_its_first_checkpoint_begins_with_the_weights_of_its_initializer(
    failed, finish, settings, remains
):
    fine_tuned = {**settings, "initializer": {"kind": "checkpoint", "path": str(failed.run_dir)}, "seed": 1}
    straight = finish(fine_tuned, run_id="straight")
    died = finish(fine_tuned, run_id="died")
    shutil.rmtree(died.run_dir / "checkpoints")
    assert remains(finish(fine_tuned, run_id="died", resume="auto")) == remains(straight)


def test_partial_saves_of_a_run_that_begins_at_its_beginning_are_kept_aside(finish, run, lab, settings):
    callbacks = [each for each in settings["trainer.callbacks"] if each["kind"] in ("offline-loss", "best-checkpoint")]
    fails = {"kind": "lab.failing.FailsOnce", "every_n_updates": 1, "at_update": 7}
    died = run({**settings, "trainer.callbacks": [*callbacks, fails]}, run_id="mine")
    newest = steps(died)[-1]
    limit = {"trainer.max_epochs": None, "trainer.max_updates": newest - 1}
    again = finish({**settings, "trainer.callbacks": callbacks, **limit}, run_id="mine", resume="auto")
    assert steps(again)[-1] == newest - 1
    assert "last" in CheckpointNames(again.run_dir / "checkpoints").known()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_by_itself(failed, run, settings):  # C5
    for step in checkpoint_folders(failed.run_dir / "checkpoints"):
        (step / "manifest.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError) as caught:
        run(settings, run_id="mine", resume="auto")
    assert "mine" in str(caught.value)


def test_a_run_folder_that_was_moved_goes_on(failed, finish, settings, uninterrupted, remains, workplace):  # C6
    (workplace / "elsewhere").mkdir()
    shutil.move(failed.run_dir, workplace / "elsewhere" / "mine")
    resumed = finish({**settings, "output": "elsewhere"}, run_id="mine", resume="auto")
    assert remains(resumed) == remains(uninterrupted)


def test_a_run_folder_may_get_a_name_that_no_new_run_could_have(failed, finish, settings, uninterrupted, remains):
    shutil.move(failed.run_dir, failed.run_dir.with_name("mein läuf (2)"))
    resumed = finish(settings, run_id="mein läuf (2)", resume="auto")
    assert remains(resumed) == remains(uninterrupted)


# What to do with a run id


def test_auto_starts_a_run_that_is_not_there_yet(finish, settings, lab):
    (lab.parent / "failed-once").touch()
    assert finish(settings, run_id="mine", resume="auto").run_dir.name == "mine"


def test_a_finished_run_has_nothing_left_to_do(failed, finish, settings, remains):  # E6
    finished = finish(settings, run_id="mine", resume="auto")
    before = remains(finished)
    again = finish(settings, run_id="mine", resume="auto")
    assert (again.exit_code, dict(again.metrics)) == (0, dict(finished.metrics))
    assert remains(again) == before
    assert len(list((again.run_dir / "attempts").glob("0*.json"))) == 2


def test_a_finished_run_can_be_made_longer(finish, settings, lab, remains):  # E7
    (lab.parent / "failed-once").touch()
    longer = finish({**settings, "trainer.max_epochs": 3}, run_id="longer")
    finish(settings, run_id="mine")
    resumed = finish({**settings, "trainer.max_epochs": 3}, run_id="mine", resume="auto")
    assert {k: v for k, v in remains(resumed).items() if k != "metrics"} == {
        k: v for k, v in remains(longer).items() if k != "metrics"
    }


def test_a_run_that_stopped_early_has_nothing_left_to_do_for_the_command_either(finish, settings, lab, noether_command):
    (lab.parent / "failed-once").touch()
    stops = {"kind": "fixed-early-stopper", "stop_at_update": 5}
    stopped = finish({**settings, "trainer.callbacks": [*settings["trainer.callbacks"], stops]}, run_id="mine")
    ended = noether_command("resume", "mine")
    assert (ended.code, "nothing is left to do" in ended.out) == (0, True)
    assert len(list((stopped.run_dir / "attempts").glob("0*.json"))) == 1


def test_a_limit_before_the_checkpoint_is_refused_and_changes_nothing(failed, run, settings):
    before = {path: path.read_bytes() for path in failed.run_dir.rglob("*") if path.is_file() and path.name != "LOCK"}
    shorter = {**settings, "trainer.max_epochs": None, "trainer.max_updates": 2, "trainer.callbacks": []}
    with pytest.raises(CheckpointError) as caught:
        run(shorter, run_id="mine", resume="E0_U3_S24")
    assert "E0_U3_S24" in str(caught.value)
    assert "max_updates = 2" in str(caught.value)
    after = {path: path.read_bytes() for path in failed.run_dir.rglob("*") if path.is_file() and path.name != "LOCK"}
    assert after == before


def test_none_moves_what_is_there_aside_and_starts_anew(failed, finish, settings, workplace):
    kept = (failed.run_dir / "metrics.jsonl").read_bytes()
    finish(settings, run_id="mine", resume="none")
    assert (workplace / "runs" / "mine.before" / "metrics.jsonl").read_bytes() == kept


def test_a_run_that_exists_is_an_error_that_says_how_to_go_on(failed, run, settings):
    with pytest.raises(UsageError) as caught:
        run(settings, run_id="mine")
    assert "--resume auto" in str(caught.value.hint)


def test_resuming_needs_a_run_id(run, settings):
    with pytest.raises(UsageError) as caught:
        run(settings, resume="auto")
    assert "--run-id" in str(caught.value.hint)


def test_a_run_that_is_in_use_is_left_alone(failed, run, settings):
    with RunLock(failed.run_dir), pytest.raises(UsageError):
        run(settings, run_id="mine", resume="auto")
    assert len(list((failed.run_dir / "attempts").glob("0*.json"))) == 1


def test_each_attempt_has_a_record(failed, finish, settings):
    finish(settings, run_id="mine", resume="auto")
    first, second = (json.loads((failed.run_dir / "attempts" / f"000{n}.json").read_bytes()) for n in (1, 2))
    assert (first["status"], second["status"]) == ("FAILED", "FINISHED")
    assert (first["resumed_from"], second["resumed_from"]) == (None, "step-000000000006")


# Changed specs and machines


def test_a_spec_that_computes_something_else_is_refused_with_the_difference(failed, run, settings):
    with pytest.raises(UsageError) as caught:
        run({**settings, "model.optimizer.lr": 0.5}, run_id="mine", resume="auto")
    assert "model.optimizer.lr: 0.01 → 0.5" in str(caught.value)


def test_it_may_be_continued_nevertheless_and_the_former_spec_is_kept(failed, finish, settings):
    former = (failed.run_dir / "spec.resolved.toml").read_bytes()
    changed = {**settings, "model.optimizer.lr": 0.5}
    finish(changed, run_id="mine", resume="auto", allow_spec_change=True)
    assert b"lr = 0.5" in (failed.run_dir / "spec.resolved.toml").read_bytes()
    assert (failed.run_dir / "attempts" / "0001.resolved.toml").read_bytes() == former


def test_another_machine_is_reported(failed, finish, settings):  # D6
    record = json.loads((failed.run_dir / "run.json").read_bytes())
    record["environment"]["torch"] = "2.0.0"
    del record["sha256"]
    (failed.run_dir / "run.json").write_text(json.dumps(record))
    resumed = finish(settings, run_id="mine", resume="auto")
    assert "its last bits will differ: torch 2.0.0 → " in (resumed.run_dir / "log.txt").read_text()


# The command


def test_the_command_continues_a_run_with_the_spec_in_its_folder(
    spec_file, noether_command, lab, uninterrupted, remains
):
    assert noether_command("run", spec_file, "--run-id", "mine").code == 1
    ended = noether_command("resume", "mine")
    assert ended.code == 0, ended.err
    assert "attempt 2 continues after E1_U6_S48; 2 updates after it are computed again" in ended.out
    found = remains(noether.Outcome("FINISHED", lab.parent / "runs" / "mine"))
    assert found == remains(uninterrupted)
    again = noether_command("resume", "mine")
    assert (again.code, "nothing is left to do" in again.out) == (0, True)


def began_with(run, text):
    """Make a run one whose last attempt began with another resolved spec."""
    (run / "spec.resolved.toml").write_text(text)
    path = run / "attempts" / "0001.json"
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"spec_sha256": sha256}))


def test_a_plugin_that_is_not_installed_any_more_is_named_with_the_command_that_installs_it(
    failed, noether_command
):  # D7
    text = (failed.run_dir / "spec.resolved.toml").read_text().replace('kind = "mlp"', 'kind = "gone"')
    began_with(failed.run_dir, text.replace('model = "mlp from noether-train', 'model = "gone from lab-gone'))
    ended = noether_command("resume", "mine")
    assert (ended.code, "unknown model kind 'gone'" in ended.err) == (2, True)
    assert "the run used lab-gone 0.1.0, which is not installed: pip install 'lab-gone==0.1.0'" in ended.err


def test_code_of_the_project_is_not_taken_for_a_plugin_that_is_missing(failed, noether_command):
    text = (failed.run_dir / "spec.resolved.toml").read_text()
    began_with(failed.run_dir, re.sub(r"mlp from noether-train [^\"]*", "mlp from project code", text))
    ended = noether_command("resume", "mine", "-s", "seed=3")
    assert (ended.code, "resume refused" in ended.err) == (2, True)
    assert "is not installed" not in ended.err


def test_a_dry_run_says_what_would_happen_and_changes_nothing(failed, noether_command):
    before = {path: path.read_bytes() for path in failed.run_dir.rglob("*") if path.is_file()}
    ended = noether_command("resume", "mine", "--dry-run", "-s", "seed=3", "-s", "loader.num_workers=2")
    assert ended.code == 0
    for line in (
        "attempts    1, the last one ended as FAILED",
        "continues   after E1_U6_S48",
        "again       2 updates are computed again",
        "spec        seed: 0 → 3",
        "spec        loader.num_workers: 0 → 2",
        "need --allow-spec-change",
        "machine     as it was",
    ):
        assert line in ended.out
    assert {path: path.read_bytes() for path in failed.run_dir.rglob("*") if path.is_file()} == before


def test_a_dry_run_of_a_run_that_holds_partial_saves_only_says_that_it_begins_anew(run, settings, lab, noether_command):
    callbacks = [each for each in settings["trainer.callbacks"] if each["kind"] in ("offline-loss", "best-checkpoint")]
    fails = {"kind": "lab.failing.FailsOnce", "every_n_updates": 1, "at_update": 7}
    died = run({**settings, "trainer.callbacks": [*callbacks, fails]}, run_id="mine")
    before = steps(died)
    assert before, "there has to be a partial save"
    ended = noether_command("resume", "mine", "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert "begins      anew: it has no checkpoint yet" in ended.out
    assert steps(died) == before


def test_an_unknown_checkpoint_to_continue_from_is_exit_code_3(failed, noether_command):
    ended = noether_command("resume", "mine", "--checkpoint", "lastest")
    assert (ended.code, "holds no checkpoint 'lastest'" in ended.err) == (3, True)


# What does not come back as it was saved


def test_a_callback_that_forgets_its_state_is_named_before_the_run_goes_on(run, settings, lab):
    forgetful = {"kind": "lab.failing.Forgetful", "every_n_updates": 1}
    settings = {**settings, "trainer.callbacks": [forgetful, *settings["trainer.callbacks"]]}
    assert run(settings, run_id="mine").status == "FAILED"
    resumed = run(settings, run_id="mine", resume="auto")
    assert resumed.exit_code == 3
    assert "trainer.json at callbacks.forgetful.updates: found 0, expected 6" in str(resumed.error)


def test_without_that_callback_the_run_goes_on(run, finish, settings, lab):
    forgetful = {"kind": "lab.failing.Forgetful", "every_n_updates": 1}
    run({**settings, "trainer.callbacks": [forgetful, *settings["trainer.callbacks"]]}, run_id="mine")
    finish(settings, run_id="mine", resume="auto")


def test_it_goes_on_without_that_callback_also_after_an_attempt_that_saved_nothing(run, finish, settings, lab):
    forgetful = {"kind": "lab.failing.Forgetful", "every_n_updates": 1}
    callbacks = [each for each in settings["trainer.callbacks"] if each["kind"] != "lab.failing.FailsOnce"]
    run({**settings, "trainer.callbacks": [forgetful, *settings["trainer.callbacks"]]}, run_id="mine")
    fails = {"kind": "lab.failing.FailsOnce", "every_n_updates": 1, "at_update": 7}
    (lab.parent / "failed-once").unlink()
    without = {**settings, "trainer.callbacks": [*callbacks, fails]}
    died = run(without, run_id="mine", resume="auto")
    assert (died.status, steps(died)[-1]) == ("FAILED", 6)
    finish(without, run_id="mine", resume="auto")


def test_a_run_behind_a_link_is_begun_anew_in_a_folder_of_its_own(failed, finish, settings):
    elsewhere = failed.run_dir.parent.with_name("archive")
    failed.run_dir.rename(elsewhere)
    failed.run_dir.symlink_to(elsewhere)
    kept = (elsewhere / "metrics.jsonl").read_bytes()
    outcome = finish(settings, run_id="mine", resume="none")
    assert not outcome.run_dir.is_symlink()
    assert (elsewhere / "metrics.jsonl").read_bytes() == kept


@pytest.mark.parametrize("resume", [None, "auto"])
def test_a_link_to_nothing_in_the_place_of_a_run_is_named(run, settings, workplace, resume):
    (workplace / "runs").mkdir(exist_ok=True)
    (workplace / "runs/mine").symlink_to("nothing")
    with pytest.raises(UsageError, match="link to nothing"):
        run(settings, run_id="mine", resume=resume)


def test_the_project_of_a_run_is_named_once_if_its_code_is_not_found(failed, monkeypatch, tmp_path_factory):
    run = failed.run_dir.absolute()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(UsageError) as raised:
        resume(run)
    assert sum("--project" in note for note in raised.value.__notes__) == 1
