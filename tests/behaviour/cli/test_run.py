"""`noether run`: output and exit code of a run that succeeds, fails, or is interrupted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAILS = {"kind": "lab.callbacks.Fails", "id": "arsonist", "every_n_updates": 1}


def test_a_good_run_ends_with_0_and_says_where_it_is(noether_command, spec_file):
    ended = noether_command("run", spec_file(), "--run-id", "first")
    assert ended.code == 0
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert lines[0] == "run first in runs/first"
    assert lines[-1] == "finished after E2_U12_S96: runs/first"
    assert "  loss/online/total = " in ended.out
    assert any("update 12/12" in line for line in lines)


def test_the_summary_begins_with_the_best_and_ends_with_sizes_and_timings(noether_command, spec_file, tiny_spec):
    evaluation = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
    tiny_spec["trainer"]["callbacks"] = [evaluation, best]
    ended = noether_command("run", spec_file())
    keys = [line.split(" = ")[0].strip() for line in ended.out.splitlines() if line.startswith("  ") and " = " in line]
    expected = ("loss/test/total/best", "loss/test/total", "loss/online/total", "optim/lr")
    places = [keys.index(key) for key in expected]
    assert places[0] == 0
    assert places == sorted(places)


def test_quiet_says_nothing_of_a_good_run(noether_command, spec_file):
    ended = noether_command("run", spec_file(), "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_overrides_reach_the_run_and_the_given_spec_stays_as_it_was(noether_command, spec_file):
    spec = spec_file()
    noether_command("run", spec, "--run-id", "a", "-q", "-s", "model.hidden=[4]", "-s", "trainer.max_epochs=1")
    assert Path("runs/a/spec.toml").read_text() == spec.read_text()
    resolved = Path("runs/a/spec.resolved.toml").read_text()
    assert "max_epochs = 1" in resolved
    again = noether_command("run", "runs/a/spec.resolved.toml", "--run-id", "b", "-q")
    assert again.code == 0
    folders = [max(Path("runs", name, "checkpoints").iterdir()) for name in "ab"]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1


def test_an_error_of_a_callback_is_one_message_that_names_it(noether_command, spec_file, tiny_spec, lab):
    tiny_spec["trainer"]["callbacks"] = [FAILS]
    ended = noether_command("run", spec_file(), "--quiet")
    assert ended.code == 1
    first, *rest = ended.err.splitlines()
    assert first.startswith("error: ZeroDivisionError: the lab is on fire (")
    assert "lab/callbacks.py:" in first
    assert rest[0].startswith(
        "  note: raised by callback 'arsonist' (kind lab.callbacks.Fails) in hook after_update at update 3"
    )
    assert "log.txt" in rest[-1]
    assert "Traceback" not in ended.err + ended.out


def test_traceback_shows_where_the_error_arose(noether_command, spec_file, tiny_spec, lab):
    tiny_spec["trainer"]["callbacks"] = [FAILS]
    ended = noether_command("run", spec_file(), "--quiet", "--traceback")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "arsonist" in ended.err


def test_a_loss_that_is_not_finite_ends_with_4(noether_command, spec_file, tiny_spec, lab):
    tiny_spec["trainer"]["loss_fn"] = "lab.losses.infinite_gradient"
    ended = noether_command("run", spec_file(), "--quiet")
    assert ended.code == 4
    assert ended.err.startswith("error: the loss or a gradient is not finite in update 1")


def test_a_broken_expectation_ends_with_1(noether_command, spec_file):
    ended = noether_command("run", spec_file(expect={"optim/lr": {"max": 0.001}}), "--quiet")
    assert ended.code == 1
    assert "optim/lr = 0.01, expected at most 0.001" in ended.err


@pytest.mark.parametrize(("numbers", "code"), [([15], 143), ([2], 130)])
def test_a_signal_is_not_an_error(noether_command, spec_file, tiny_spec, lab, numbers, code):
    tiny_spec["trainer"]["callbacks"] = [{"kind": "lab.callbacks.Signals", "every_n_updates": 1, "numbers": numbers}]
    ended = noether_command("run", spec_file())
    assert ended.code == code
    assert ended.err == ""
    assert ended.out.splitlines()[-1].startswith("killed after E0_U3_S24")


def test_ctrl_c_while_the_data_is_loaded_ends_with_130(noether_command, spec_file, tiny_spec, lab):
    tiny_spec["datasets"]["train"] = {"kind": "lab.data.Interrupted"}
    ended = noether_command("run", spec_file())
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert not Path("runs").exists()


def test_the_command_runs_as_a_process(spec_file):
    command = [sys.executable, "-m", "noether", "run", spec_file(), "--run-id", "whole"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(Path("runs/whole/attempts/0001.json").read_text())["status"] == "FINISHED"
