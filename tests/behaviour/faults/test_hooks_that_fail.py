"""A callback that fails in any hook ends the run, is named, and damages nothing: G1, G3, J5."""

import json
from pathlib import Path

import pytest
import tomli_w

FIRST, MIDDLE, LAST = 1, 7, 12
EVERY_TWO = {"kind": "checkpoint", "id": "saves", "every_n_updates": 2}
CLOSES = {"kind": "lab.faults.Closes"}

EACH_UPDATE = (
    "before_optimizer_step",
    "track_after_accumulation_step",
    "track_after_update_step",
    "after_update",
    "periodic_callback",
    "process_data",
    "process_results",
    "state_dict",
    "state_files",
)
ENCLOSING = {"process_data": "after_update", "process_results": "after_update", "periodic_callback": "after_update"}


@pytest.fixture(autouse=True)
def at_the_lab(lab):
    """Specs name classes of the project `lab`."""


def fault(hook, at_update=None, action="raise", interval="every_n_updates"):
    where = {} if at_update is None else {"at_update": at_update}
    return {"kind": "lab.faults.Fault", "id": "arsonist", interval: 1, "hook": hook, "action": action, **where}


def failing(run, *arguments, **options):
    return run({"trainer.callbacks": [CLOSES, EVERY_TWO, fault(*arguments, **options)], "checkpoints.keep_last": 9})


def check_ended_cleanly(outcome, attempt, hook, update=None, code=1):
    note = "\n".join(getattr(outcome.error, "__notes__", []))
    assert (outcome.status, outcome.exit_code) == ("FAILED", code)
    assert "'arsonist'" in note, note
    assert f"in hook {hook}" in note or f"in {hook}" in note, note
    assert update is None or f"at update {update}" in note, note
    assert attempt(outcome)["status"] == "FAILED"
    assert Path("closed.txt").read_text() == "closed\n"


@pytest.mark.parametrize("update", [FIRST, MIDDLE, LAST])
@pytest.mark.parametrize("hook", EACH_UPDATE)
def test_an_error_in_a_hook_names_it_and_saves_no_half_done_boundary(run, attempt, verified_updates, hook, update):
    is_inside = hook in ("before_optimizer_step", "track_after_accumulation_step")
    at = update - 1 if is_inside else update  # completed updates while it is called
    outcome = failing(run, hook, at)
    check_ended_cleanly(outcome, attempt, ENCLOSING.get(hook, hook), at)
    assert isinstance(outcome.error, ZeroDivisionError)
    assert verified_updates(outcome.run_dir) == list(range(2, update, 2))


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_error_at_the_end_of_an_epoch_saves_no_half_done_boundary(run, attempt, verified_updates, epoch):
    outcome = failing(run, "after_epoch", 6 * epoch, interval="every_n_epochs")
    check_ended_cleanly(outcome, attempt, "after_epoch", 6 * epoch)
    assert verified_updates(outcome.run_dir) == list(range(2, 6 * epoch, 2))


def test_an_error_before_training_ends_the_run_before_its_first_update(run, attempt, verified_updates):
    outcome = failing(run, "before_training")
    check_ended_cleanly(outcome, attempt, "before_training", 0)
    assert verified_updates(outcome.run_dir) == []


def test_a_state_that_cannot_be_had_is_known_before_the_first_update(run, attempt, metric_lines):
    outcome = failing(run, "state_dict")
    check_ended_cleanly(outcome, attempt, "state_dict", 0)
    assert all(line["update"] == 0 for line in metric_lines(outcome))


def test_an_error_after_training_keeps_what_the_last_update_asked_for(run, attempt, verified_updates):
    outcome = failing(run, "after_training")
    check_ended_cleanly(outcome, attempt, "after_training", LAST)
    assert verified_updates(outcome.run_dir) == list(range(2, LAST + 1, 2))


def test_an_error_in_close_fails_the_run_and_closes_the_others(run, attempt, verified_updates):
    outcome = failing(run, "close")
    check_ended_cleanly(outcome, attempt, "close", LAST)
    assert LAST in verified_updates(outcome.run_dir)


def test_an_error_in_an_evaluation_without_training_names_the_callback(run, attempt):
    callbacks = [CLOSES, fault("at_eval", interval="every_n_epochs")]
    outcome = run({"trainer.callbacks": callbacks, "trainer.max_epochs": 0})
    check_ended_cleanly(outcome, attempt, "at_eval")


@pytest.mark.parametrize("method", ["load_state_dict", "resume_from_checkpoint"])
def test_an_error_in_a_resume_names_the_callback_and_leaves_the_checkpoints(run, verified_updates, attempt, method):
    callbacks = [CLOSES, EVERY_TWO, fault("none")]
    first = run({"trainer.callbacks": callbacks}, run_id="first")
    before = verified_updates(first.run_dir)
    Path("closed.txt").unlink()
    again = run(
        {"trainer.callbacks": [*callbacks[:2], fault(method)], "initializer": {"kind": "resume", "run_id": "first"}},
    )
    check_ended_cleanly(again, attempt, method, code=3)
    assert verified_updates(first.run_dir) == before


@pytest.mark.parametrize(
    ("action", "status", "code"),
    [
        ("exit", "FAILED", 1),
        ("interrupt", "KILLED", 130),
        ("unheard of", "FAILED", 1),
        ("no memory", "FAILED", 1),
    ],
)
@pytest.mark.parametrize("hook", ["track_after_update_step", "process_data", "after_training", "state_dict"])
def test_the_records_are_correct_for_any_error_of_a_callback(
    run, attempt, verified_updates, hook, action, status, code
):  # G3
    outcome = failing(run, hook, LAST if hook == "after_training" else 3, action)
    assert (outcome.status, outcome.exit_code) == (status, code)
    assert attempt(outcome)["status"] == status
    assert Path("closed.txt").read_text() == "closed\n"
    assert set(verified_updates(outcome.run_dir)) <= set(range(2, LAST + 1, 2))


ODD = {
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "unheard of": "UnheardOf",
    "stop iteration": "StopIteration",
    "stop async iteration": "StopAsyncIteration",
    "generator exit": "GeneratorExit",
    "mute": "MuteError",
    "frozen": "frozen words",
    "not picklable": "LocalError",
}
HOOKS = (
    "before_training",
    "before_optimizer_step",
    "track_after_accumulation_step",
    "track_after_update_step",
    "after_update",
    "periodic_callback",
    "process_data",
    "after_training",
    "state_dict",
    "close",
)
EVERY = ("before_training", "track_after_accumulation_step", "process_data", "close")


@pytest.mark.parametrize("action", ODD)
@pytest.mark.parametrize("hook", [pytest.param(h, marks=() if h in EVERY else pytest.mark.long) for h in HOOKS])
def test_an_exception_of_any_class_names_callback_and_hook(run, attempt, hook, action):
    outcome = failing(run, hook, action=action)
    assert outcome.exit_code == (130 if action == "interrupt" else 1)
    record = attempt(outcome)
    assert record["status"] == outcome.status
    assert "callback 'arsonist'" in record["reason"]
    assert f"in hook {ENCLOSING.get(hook, hook)}" in record["reason"] or f"in {hook}" in record["reason"]
    assert ODD[action] in record["reason"] or "FrozenInstanceError" in record["reason"]  # raised by contextlib
    assert ODD[action] in (outcome.run_dir / "log.txt").read_text()


@pytest.mark.parametrize("action", ["generator exit", "stop iteration", "mute", "frozen"])
def test_an_exception_of_any_class_is_printed_without_a_traceback(noether_command, tiny_spec, action):
    tiny_spec["trainer"]["callbacks"] = [fault("after_update", 3, action)]
    Path("odd.toml").write_text(tomli_w.dumps(tiny_spec))
    ended = noether_command("run", "odd.toml", "--quiet")
    assert ended.code == 1
    assert "callback 'arsonist'" in ended.err
    assert "Traceback" not in ended.err


def test_a_metric_that_is_not_finite_is_written_and_fails_nothing(finish, metric_lines):
    outcome = finish({"trainer.callbacks": [fault("track_after_update_step", 3, "log nan")]})
    (line,) = [line for line in metric_lines(outcome) if "not/finite" in line["metrics"]]
    assert (line["update"], line["metrics"]["not/finite"]) == (3, "NaN")


@pytest.mark.parametrize("hook", ["process_data", "track_after_update_step"])
def test_a_run_that_a_callback_has_ended_can_go_on(run, finish, hook):
    spec = {"checkpoints.keep_last": 9, "model.dropout": 0.3}
    silent = [CLOSES, EVERY_TWO, fault(hook, 99)]
    straight = finish({**spec, "trainer.callbacks": silent})
    run({**spec, "trainer.callbacks": [CLOSES, EVERY_TWO, fault(hook, 7)]}, run_id="ended")
    resumed = finish({**spec, "trainer.callbacks": silent}, run_id="ended", resume="auto")
    assert trees(resumed) == trees(straight)


def trees(outcome):
    newest = max((outcome.run_dir / "checkpoints").glob("step-*"))
    tree = json.loads((newest / "trainer.json").read_text())
    del tree["trainer"]["log_writer"]
    return tree, (newest / "model.safetensors").read_bytes()
