"""`noether sweep`: every trial is a run, failures are results, and a sweep that was killed goes on."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from noether.cli.main import main

Command = Callable[..., Any]
LOSS = "loss/test/total"
SWEEP = """
[expect]
"loss/test/total" = { max = 0.3 }

[sweep]
"model.optimizer.lr" = [0.0001, 0.05, 1e30]
"""


def trials_of(folder: Path, name: str = "tiny") -> dict[int, dict[str, Any]]:
    return {one["number"]: one for one in json.loads((folder / f"runs/{name}.sweep/sweep.json").read_text())["trials"]}


def attempts_of(folder: Path, run_id: str) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in sorted((folder / f"runs/{run_id}/attempts").iterdir())]


def write_sweep(folder: Path, text: str) -> None:
    spec = folder / "tiny.toml"
    spec.write_text(spec.read_text() + text)


@dataclass(frozen=True)
class Done:
    """Exit code and output of a sweep."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def ended(shared: Path) -> tuple[Path, Done]:
    """A sweep over three learning rates: one breaks [expect], one is good, one makes training fail."""
    write_sweep(shared, SWEEP)
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(shared)
        patch.setattr(sys, "argv", ["noether", "sweep", "tiny.toml", "--processes", "3"])
        with pytest.raises(SystemExit) as end:
            main()
    return shared, Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


def test_each_trial_is_a_run_whose_resolved_spec_holds_its_value_and_no_sweep(ended) -> None:
    folder, _ = ended
    for number, lr in ((1, 0.0001), (2, 0.05)):
        resolved = tomllib.loads((folder / f"runs/tiny-00{number}/spec.resolved.toml").read_text())
        assert resolved["model"]["optimizer"]["lr"] == lr
        assert "sweep" not in resolved


def test_a_trial_that_fails_ends_neither_the_sweep_nor_another_trial(ended) -> None:
    folder, command = ended
    trials = trials_of(folder)
    assert [trials[number]["state"] for number in (1, 2, 3)] == ["expect failed", "finished", "failed"]
    assert command.code == 1
    assert "tiny-003" in command.err


def test_the_table_has_the_best_trial_first_and_the_failed_one_last(ended) -> None:
    _, command = ended
    rows = [line.split()[0] for line in command.out.splitlines() if line.startswith("tiny-00") and "  " in line]
    assert rows == ["tiny-002", "tiny-001", "tiny-003"]


def test_the_metric_is_that_of_the_run_with_its_best_value_beside(ended) -> None:
    folder, _ = ended
    lines = [json.loads(line) for line in (folder / "runs/tiny-002/metrics.jsonl").read_text().splitlines()]
    values = [line["metrics"][LOSS] for line in lines if LOSS in line["metrics"]]
    trial = trials_of(folder)[2]
    assert (trial["final"], trial["best"]) == (values[-1], min(values))


def test_the_printed_commands_are_runs_with_the_best_values(ended, monkeypatch, noether_command: Command) -> None:
    folder, command = ended
    monkeypatch.chdir(folder)
    printed = [line.split()[2:] for line in command.out.splitlines() if line.startswith("  noether run ")]
    assert printed == [["tiny.toml", "-s", "model.optimizer.lr=0.05"], ["runs/tiny.sweep/best.toml"]]
    assert "\n  noether eval runs/tiny-002" in command.out
    for arguments in printed:
        assert "lr = 0.05" in noether_command("spec", "resolve", *arguments).out


def test_the_printed_report_is_one_page_of_the_sweep(ended, monkeypatch, noether_command: Command) -> None:
    folder, command = ended
    monkeypatch.chdir(folder)
    printed = [line.split()[1:] for line in command.out.splitlines() if line.startswith("  noether runs report")]
    assert printed == [["runs", "report", "runs/tiny.sweep"]]
    assert noether_command(*printed[0]).code == 0
    page = Path("tiny.sweep.report.html").read_text()
    assert page.index("tiny-002") < page.index("tiny-001") < page.index("tiny-003")
    assert "tiny-003: " in page and "method = grid" in page
    again = noether_command("runs", "report", "tiny.sweep", "tiny-001")
    assert again.code == 2 and "help: noether runs report runs/tiny.sweep" in again.err


def test_what_has_ended_is_not_run_again(ended, monkeypatch, noether_command: Command) -> None:
    folder, _ = ended
    monkeypatch.chdir(folder)
    again = noether_command("sweep", "tiny.toml", "--quiet")
    assert again.code == 1  # one trial has failed
    assert attempts_of(folder, "tiny-002") == ["FINISHED"]
    assert attempts_of(folder, "tiny-003") == ["FAILED"]


def test_the_status_is_printed_without_importing_pytorch(ended, monkeypatch) -> None:
    folder, _ = ended
    code = (
        "import sys, atexit\natexit.register(lambda: print('torch' in sys.modules))\n"
        "sys.argv = ['noether', 'sweep', 'tiny.toml', '--status', '--json']\nfrom noether.cli.main import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *printed, has_torch = done.stdout.splitlines()
    assert has_torch == "False"
    found = json.loads("\n".join(printed))
    assert [one["run_id"] for one in found["trials"]] == ["tiny-002", "tiny-001", "tiny-003"]
    assert (found["metric"], found["direction"], found["value"]) == (LOSS, "lower", "final")
    assert found["trials"][0]["overrides"] == ["model.optimizer.lr=0.05"]


def test_another_spec_is_refused_with_the_difference_unless_the_sweep_has_another_name(
    ended, monkeypatch, noether_command: Command
) -> None:
    folder, _ = ended
    monkeypatch.chdir(folder)
    refused = noether_command("sweep", "tiny.toml", "-s", "trainer.max_epochs=4")
    assert refused.code == 2
    assert "trainer.max_epochs: 3 → 4" in refused.err
    assert noether_command("sweep", "tiny.toml", "-s", "trainer.max_epochs=4", "--name", "b", "--dry-run").code == 0


@pytest.mark.parametrize(
    ("table", "code", "place"),
    [
        ('"model.optimizer.lrr" = [0.1]', "unknown-key", '"model.optimizer.lrr"'),
        ('"model.hidden" = [[8], ["a"]]', "wrong-type", '"a"'),
        ('"trainer.max_epochs" = { int_uniform = [-3, 2] }\nsettings.trials = 40', "out-of-range", "int_uniform"),
        ('"trainer.callbacks[nope].every_n_epochs" = [1]', "unknown-path", '"trainer.callbacks[nope]'),
    ],
)
def test_a_wrong_trial_is_an_error_in_the_table_before_the_first_one_starts(
    project: Path, noether_command: Command, table: str, code: str, place: str
) -> None:
    write_sweep(project, f"[sweep]\n{table}\n")
    found = noether_command("sweep", "tiny.toml")
    assert found.code == 2
    assert f"error[{code}]" in found.err
    assert any(line.lstrip("0123456789 |").startswith(place) or place in line for line in found.err.splitlines())
    assert not (project / "runs").exists()


def test_a_spec_without_a_sweep_says_how_to_write_one(project: Path, noether_command: Command) -> None:
    found = noether_command("sweep", "tiny.toml")
    assert found.code == 2
    assert "sweep." in found.err


def test_a_run_of_a_spec_with_a_sweep_has_the_values_of_the_spec(project: Path, noether_command: Command) -> None:
    write_sweep(project, '[sweep]\n"model.optimizer.lr" = [0.1]\n')
    found = noether_command("spec", "resolve", "tiny.toml")
    assert "lr = 0.01" in found.out
    assert "[sweep]" not in found.out


def test_several_values_of_an_override_are_an_error_that_names_the_sweep(
    project: Path, noether_command: Command
) -> None:
    found = noether_command("run", "tiny.toml", "-s", "model.optimizer.lr=1e-3,1e-4")
    assert found.code == 2
    assert """noether sweep SPEC -s 'sweep."model.optimizer.lr"=[1e-3,1e-4]'""" in found.err


def test_a_run_that_another_command_started_is_never_taken_for_a_trial(project: Path, noether_command: Command) -> None:
    write_sweep(project, '[sweep]\n"model.optimizer.lr" = [0.1]\n')
    (project / "runs/tiny-001").mkdir(parents=True)
    found = noether_command("sweep", "tiny.toml")
    assert found.code == 2
    assert "tiny-001" in found.err


KILLER = """
import os, signal, time
from pathlib import Path
import noether

started = None


@noether.hookimpl
def run_started(run):
    global started
    started = run


@noether.hookimpl
def after_update(update_counter):
    if update_counter.update == 4 and not Path("killed").exists():
        Path("killed").touch()
        os.kill({victim}, signal.SIGKILL)
        while started.trainer.signals.received is None:
            time.sleep(0.01)
"""


def test_a_sweep_that_is_killed_stops_its_trial_with_a_checkpoint(
    project: Path, command_in: Command, noether_command: Command
) -> None:
    (project / "noether_plugin.py").write_text(KILLER.format(victim="os.getppid()"))
    write_sweep(project, '[plugins]\nuse = ["noether_plugin"]\n\n[sweep]\n"model.optimizer.lr" = [0.1]\n')
    assert command_in(project, "sweep", "tiny.toml").code == -signal.SIGKILL
    again = noether_command("sweep", "tiny.toml")
    assert again.code == 0, again.err
    assert attempts_of(project, "tiny-001") == ["KILLED", "FINISHED"]
    log = (project / "runs/tiny-001/log.txt").read_text()
    assert "no update is lost" in log


@pytest.mark.long
def test_a_trial_that_is_killed_does_not_end_the_sweep_and_goes_on_later(project: Path, command_in: Command) -> None:
    (project / "noether_plugin.py").write_text(KILLER.format(victim="os.getpid()"))
    write_sweep(project, '[plugins]\nuse = ["noether_plugin"]\n\n[sweep]\n"model.optimizer.lr" = [0.1, 0.2]\n')
    first = command_in(project, "sweep", "tiny.toml")
    assert first.code == 1
    assert [one["state"] for one in trials_of(project).values()] == ["stopped", "finished"]
    assert command_in(project, "sweep", "tiny.toml").code == 0
    assert attempts_of(project, "tiny-002") == ["FINISHED"]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_trials_with_checkpoints(project: Path, command_in: Command, number: signal.Signals) -> None:
    (project / "noether_plugin.py").write_text(KILLER.format(victim="os.getppid()").replace("SIGKILL", number.name))
    write_sweep(project, '[plugins]\nuse = ["noether_plugin"]\n\n[sweep]\n"model.optimizer.lr" = [0.1, 0.2]\n')
    stopped = command_in(project, "sweep", "tiny.toml")
    assert stopped.code == 128 + number
    assert [one["state"] for one in trials_of(project).values()] == ["stopped", "waiting"]
    assert "no update is lost" in (project / "runs/tiny-001/log.txt").read_text()
    assert command_in(project, "sweep", "tiny.toml").code == 0


@pytest.mark.long
def test_a_changed_table_adds_trials_and_lists_those_that_it_has_no_more(project: Path, command_in: Command) -> None:
    write_sweep(project, '[sweep]\n"model.optimizer.lr" = [0.1, 0.2]\n')
    assert command_in(project, "sweep", "tiny.toml", "--processes", "2").code == 0
    spec = project / "tiny.toml"
    spec.write_text(spec.read_text().replace("[0.1, 0.2]", "[0.2, 0.3]"))
    again = command_in(project, "sweep", "tiny.toml")
    assert again.code == 0
    assert [one["wanted"] for one in trials_of(project).values()] == [False, True, True]
    assert attempts_of(project, "tiny-002") == ["FINISHED"]
    assert "tiny-001" in again.out.split("not in [sweep] any more: ")[1].splitlines()[0]


@pytest.mark.long
def test_a_pruned_trial_is_a_finished_run_with_a_checkpoint(project: Path, command_in: Command) -> None:
    pytest.importorskip("optuna", reason="pip install -c constraints.txt optuna")
    write_sweep(
        project,
        '[sweep]\n"model.optimizer.lr" = [0.05, 1e-6]\n'
        '[sweep.settings]\npruner = { kind = "Median", n_startup_trials = 1 }\n',
    )
    done = command_in(project, "sweep", "tiny.toml")
    assert done.code == 0, done.err
    assert [one["state"] for one in trials_of(project).values()] == ["finished", "pruned"]
    assert attempts_of(project, "tiny-002") == ["FINISHED"]
    assert list((project / "runs/tiny-002/checkpoints").iterdir())
    assert len(trials_of(project)[2]["reports"]) == 1


@pytest.mark.long
def test_two_sweeps_of_one_name_never_run_at_once(project: Path, command_in: Command) -> None:
    plugin = KILLER.format(victim="os.getpid()").replace(
        "os.kill(os.getpid(), signal.SIGKILL)", "Path('ready').touch()"
    )
    (project / "noether_plugin.py").write_text(plugin)
    write_sweep(project, '[plugins]\nuse = ["noether_plugin"]\n\n[sweep]\n"model.optimizer.lr" = [0.1]\n')
    first = subprocess.Popen([sys.executable, "-m", "noether", "sweep", "tiny.toml"], cwd=project)
    try:
        while not (project / "ready").exists():
            assert first.poll() is None
        second = command_in(project, "sweep", "tiny.toml")
        assert second.code == 2
        assert str(first.pid) in second.err
        assert command_in(project, "sweep", "tiny.toml", "--status").code == 0
    finally:
        os.kill(first.pid, signal.SIGTERM)
        assert first.wait() == 128 + signal.SIGTERM
