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
    assert any("update 12/12" in line for line in lines)


VALUE = "loss/test/total"
VAL = {"kind": "offline-loss", "id": "val", "every_n_epochs": 1, "dataset_key": "test"}
BEST = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}


def test_the_header_has_the_facts_of_the_run(noether_command, spec_file):
    out = noether_command("run", spec_file(), "--run-id", "a").out.splitlines()
    header = [line.split(maxsplit=1) for line in out[1:] if line.startswith("  ")]
    facts = dict(reversed(header[:6]))
    assert facts["device"] == "cpu, 1 thread"
    assert facts["data"] == "train 48 samples, test 13 samples"
    assert facts["model"] == "mlp, 50 parameters, 50 trainable"
    assert facts["update"] == "8 samples, eager"
    assert facts["length"] == "12 updates, 2 epochs"
    assert "plugins" not in facts
    assert "limited" not in facts


def table(out: str, first: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first column has this name, by their first cell."""
    lines = out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.strip().startswith(first))
    end = next(place for place in range(start, len(lines)) if not lines[place].strip())
    return {line.split("  ")[1].strip(): line.split() for line in lines[start + 1 : end]}


def test_the_end_says_how_good_the_run_is_and_what_took_its_time(noether_command, spec_file, tiny_spec):
    tiny_spec["trainer"]["callbacks"] = [VAL, BEST]
    out = noether_command("run", spec_file(), "--run-id", "a").out
    results = table(out, "METRIC")
    lines = [json.loads(line) for line in Path("runs/a/metrics.jsonl").read_text().splitlines()]
    values = {line["update"]: line["metrics"]["loss/test/total"] for line in lines if VALUE in line["metrics"]}
    best = min((value, update) for update, value in values.items())
    shown = results["loss/test/total"]
    assert shown[1:3] == [f"{best[0]:.6g}", str(best[1])]
    assert shown[3] == "best_model.loss.test.total"
    assert shown[4:] == [f"{values[12]:.6g}", "12"]
    assert {"start", "evaluation, 2 rounds", "other"} <= table(out, "TIME").keys()
    costs = table(out, "CALLBACK, IN EVALUATIONS")
    assert costs["val"][1] == "2"
    assert "lr" not in costs  # it never calls the model
    assert "next  noether eval runs/a" in out


def test_output_that_no_terminal_reads_is_plain_and_never_wrapped(noether_command, spec_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = noether_command("run", spec_file(name="a-name-of-many-letters-that-a-narrow-terminal-would-wrap")).out
    assert "\x1b" not in out
    assert out.isascii()
    assert out.splitlines()[0].startswith("run a-name-of-many-letters-that-a-narrow-terminal-would-wrap-")
    assert " in runs/a-name-of-many-letters" in out.splitlines()[0]


def test_quiet_prints_the_last_line_of_a_good_run(noether_command, spec_file):
    ended = noether_command("run", spec_file(), "--quiet", "--run-id", "a")
    assert (ended.code, ended.out, ended.err) == (0, "finished after E2_U12_S96: runs/a\n", "")


def test_limit_batches_tries_the_whole_spec_quickly_and_says_so(noether_command, spec_file, tiny_spec):
    late = {"kind": "checkpoint", "id": "late", "every_n_updates": 9}
    tiny_spec["trainer"] |= {"callbacks": [VAL | {"batch_size": 2}, late], "max_epochs": 3}
    tiny_spec["expect"] = {"loss/test/total": {"max": 0.0}}
    ended = noether_command("run", spec_file(), "--run-id", "a", "--limit-batches", "2")
    assert ended.code == 0, "a trial is not judged"
    assert "limited   a trial of 2 batches a pass" in ended.out
    assert "whose interval never fires in it: late" in ended.out
    assert ended.out.splitlines()[-1] == "finished after E3_U6_S48 (a trial of 2 batches a pass): runs/a"
    assert "limit_batches = 2" in Path("runs/a/spec.resolved.toml").read_text()
    refused = noether_command("run", spec_file(), "--run-id", "a", "--resume", "auto", "-s", "trainer.max_epochs=4")
    assert refused.code == 2
    assert "loader.limit_batches" in refused.err


def test_limit_batches_warns_of_a_limit_that_it_leaves(noether_command, spec_file, tiny_spec):
    tiny_spec["trainer"] |= {"max_updates": 3}
    del tiny_spec["trainer"]["max_epochs"]
    out = noether_command("run", spec_file(), "--limit-batches", "1").out
    assert "the run still ends at max_updates = 3" in out


def test_a_model_that_can_learn_overfits_one_batch(noether_command, spec_file, tiny_spec):
    tiny_spec["trainer"] |= {"callbacks": [VAL, BEST], "track_every_n_epochs": 2}
    tiny_spec["expect"] = {"loss/test/total": {"max": 0.0}}
    ended = noether_command("run", spec_file(), "--run-id", "a", "--overfit-one-batch")
    assert ended.code == 0
    *_, verdict, last = ended.out.splitlines()
    assert verdict.startswith("one batch: the loss went from ")
    assert verdict.endswith(": the model can learn")
    assert last == "finished after E200_U200_S1600 (a trial on one batch): runs/a"
    assert "loss/test/total" not in ended.out
    assert len(list(Path("runs/a/checkpoints").iterdir())) == 1


def test_a_model_that_cannot_learn_is_a_warning_also_of_a_quiet_run(noether_command, spec_file):
    limit = ("-s", "trainer.max_updates=5", "-s", "model.optimizer.lr=1e-12")  # the spec has max_epochs
    ended = noether_command("run", spec_file(), "-q", "--run-id", "a", "--overfit-one-batch", *limit)
    verdict, last = ended.out.splitlines()
    assert "in 5 updates: it did not fall" in verdict
    assert last == "finished after E5_U5_S40 (a trial on one batch): runs/a"


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
