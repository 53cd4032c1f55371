"""Run plugins in whole runs: installed ones, their order and wrappers, and what they may do to the spec."""

import json
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import noether
from noether.errors import PluginError
from noether.runs.outcome import RunInterrupted
from noether.runs.resume.resume import preview, resume
from noether.spec.errors.problem import InvalidSpecError
from noether.testing.builders import tiny_spec
from noether.testing.contract import write_spec

CALLS = """
import json, noether
from pathlib import Path

def note(line):
    with Path("calls.txt").open("a") as file:
        file.write(line + "\\n")
"""
ORDER = {
    "late": "@noether.hookimpl(trylast=True)\ndef before_training(): note('late')",
    "plain": "@noether.hookimpl\ndef before_training(): note('plain')",
    "early": "@noether.hookimpl(tryfirst=True)\ndef before_training(): note('early')",
    "around": "@noether.hookimpl(wrapper=True)\ndef before_training():\n    note('around in')\n    yield\n"
    "    note('around out')",
    "old": "@noether.hookimpl(hookwrapper=True)\ndef before_training():\n    note('old in')\n    yield\n"
    "    note('old out')",
    "mine": "from noether.core.callbacks import CallbackBase\n\n"
    "class Mine(CallbackBase):\n    def before_training(self, **_): note('callback')",
}


@pytest.fixture
def plugin(install) -> Callable[..., None]:
    """Installs `noether-plugin-NAME 1.0` with a run plugin of that name, whose module has this text."""

    def installed(text: str, name: str = "guest") -> None:
        module = f"{name}_module"
        install(f"noether-plugin-{name}", {"plugins": {name: module}}, **{module: CALLS + text})

    return installed


def calls(folder: Path) -> list[str]:
    path = folder / "calls.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_hooks_are_called_in_the_documented_order(workplace: Path, install):
    names = [name for name in ORDER if name != "mine"]
    install(
        "noether-plugin-order",
        {"plugins": {name: name for name in names}, "callbacks": {"mine": "mine:Mine"}},
        **{name: CALLS + text for name, text in ORDER.items()},
    )
    spec = tiny_spec(plugins={"use": names}, trainer={"callbacks": ["mine"], "add_default_callbacks": False})
    assert noether.run(write_spec(workplace, spec), quiet=True).status == "FINISHED"
    inside = ["early", "callback", "plain", "late"]
    assert sorted(calls(workplace)[:2]) == ["around in", "old in"]
    assert calls(workplace)[2:-2] == inside
    assert calls(workplace)[-2:] == [line.replace(" in", " out") for line in reversed(calls(workplace)[:2])]


def test_an_interval_above_a_function_is_kept(workplace: Path, plugin):
    plugin("@noether.hookimpl\n@noether.every(epochs=1)\ndef periodic_callback(update_counter, interval_type):\n"
           "    note(f'{interval_type} {update_counter.update}')")  # fmt: skip
    noether.run(write_spec(workplace, tiny_spec()), plugins=["guest"], quiet=True)
    assert calls(workplace) == ["epoch 6", "epoch 12"]


def test_a_committed_checkpoint_is_whole_when_its_hook_is_called(workplace: Path, plugin):
    plugin("@noether.hookimpl\ndef checkpoint_committed(run, checkpoint):\n"
           "    manifest = json.loads((checkpoint / 'manifest.json').read_text())\n"
           "    note(json.dumps(sorted(manifest['files']) == sorted(f.name for f in checkpoint.iterdir()\n"
           "        if f.name != 'manifest.json')))")  # fmt: skip
    callbacks = [{"kind": "checkpoint", "every_n_updates": 5}]
    spec = tiny_spec(trainer={"callbacks": callbacks}, checkpoints={"asynchronous": True})
    noether.run(write_spec(workplace, spec), plugins=["guest"], quiet=True)
    assert calls(workplace) == ["true"] * 3


FINISHED = """
@noether.hookimpl
def run_finished(run, outcome): note(f"{outcome.status} {type(outcome.error).__name__}")
"""
AT_3 = "@noether.hookimpl\ndef track_after_update_step(update_counter):\n    if update_counter.update == 3: "


@pytest.mark.parametrize(
    ("event", "line", "code"),
    [
        ("", "FINISHED NoneType", 0),
        (AT_3 + "raise ValueError('three')", "FAILED ValueError", 1),
        (AT_3 + f"import signal; signal.raise_signal({int(signal.SIGTERM)})", "KILLED NoneType", 143),
    ],
)
def test_the_end_of_a_run_is_told_whatever_it_was(workplace: Path, plugin, event: str, line: str, code: int):
    plugin(FINISHED + event)
    try:
        outcome = noether.run(write_spec(workplace, tiny_spec()), plugins=["guest"], quiet=True)
    except RunInterrupted as stop:
        outcome = stop.outcome
    assert (calls(workplace), outcome.exit_code) == ([line], code)


def test_an_error_in_a_hook_names_plugin_version_and_hook(workplace: Path, plugin):
    plugin(AT_3 + "raise ValueError('three')")
    outcome = noether.run(write_spec(workplace, tiny_spec()), plugins=["guest"], quiet=True)
    notes = " ".join(outcome.error.__notes__)
    assert all(part in notes for part in ("'guest'", "noether-plugin-guest 1.0", "track_after_update_step", "update 3"))


def test_an_unknown_argument_is_refused_before_training(workplace: Path, plugin):
    plugin("@noether.hookimpl\ndef run_started(run, modell): note('started')")
    with pytest.raises(PluginError, match="'modell'"):
        noether.run(write_spec(workplace, tiny_spec()), plugins=["guest"], quiet=True)
    assert calls(workplace) == []
    assert not (workplace / "runs").exists()


DOUBLE = "@noether.hookimpl\ndef configure_spec(spec):\n    note('configured')\n    spec.trainer.max_updates *= 2\n"


def test_a_change_of_the_spec_is_recorded_and_a_resume_does_not_make_it_again(workplace: Path, plugin):
    plugin(DOUBLE)
    outcome = noether.run(write_spec(workplace, tiny_spec()), plugins=["guest"], run_id="a", quiet=True)
    resolved = tomllib.loads((outcome.run_dir / "spec.resolved.toml").read_text())
    assert resolved["trainer"]["max_updates"] == 24
    assert resolved["resolved"]["configured_by"] == ["guest"]
    assert resolved["resolved"]["kinds"]["plugins.use.0"] == "guest from noether-plugin-guest 1.0"
    again = resume("a", quiet=True, set={"trainer.max_updates": 30})
    assert again.status == "FINISHED"
    assert json.loads((outcome.run_dir / "metrics.jsonl").read_text().splitlines()[-1])["update"] == 30
    noether.run(outcome.run_dir / "spec.resolved.toml", set={"trainer.max_updates": 24}, run_id="b", quiet=True)
    assert calls(workplace) == ["configured"]


def test_a_run_that_is_started_or_continued_is_configured_from_its_own_spec(workplace: Path, plugin):
    plugin(DOUBLE + AT_3 + "raise ValueError('three')")
    path = write_spec(workplace, tiny_spec(trainer={"callbacks": [{"kind": "checkpoint", "every_n_updates": 2}]}))
    options = {"plugins": ["guest"], "run_id": "a", "resume": "auto", "quiet": True}
    assert noether.run(path, **options).status == "FAILED"
    noether.run(path, **options)
    resolved = tomllib.loads((workplace / "runs/a/spec.resolved.toml").read_text())
    assert resolved["trainer"]["max_updates"] == 24


@pytest.mark.parametrize("change", ["spec.seed = -1", "spec.nothing = {'a': object()}; spec.threads = 'x'"])
def test_a_change_that_no_spec_may_have_names_the_plugin(workplace: Path, plugin, change: str):
    plugin(f"@noether.hookimpl\ndef configure_spec(spec): {change}")
    with pytest.raises((InvalidSpecError, PluginError), match="guest"):
        noether.run(write_spec(workplace, tiny_spec()), plugins=["guest"], quiet=True)


def test_a_hook_that_fails_before_training_is_no_traceback(workplace: Path, plugin):
    plugin("@noether.hookimpl\ndef configure_spec(spec): spec.trainer.max_epochs *= 2")
    with pytest.raises(PluginError, match="cannot configure the spec: TypeError") as error:
        noether.run(write_spec(workplace, tiny_spec()), plugins=["guest"], quiet=True)
    assert "noether-plugin-guest 1.0" in " ".join(error.value.__notes__)


def test_an_unknown_name_is_reported_at_its_place_with_the_nearest(workplace: Path, plugin):
    plugin(FINISHED)
    path = write_spec(workplace, tiny_spec(plugins={"use": ["gest"]}))
    with pytest.raises(InvalidSpecError) as error:
        noether.load_spec(path)
    (problem,) = error.value.problems
    assert (problem.code, problem.path, problem.places[0].origin) == ("unknown-kind", ("plugins", "use", 0), str(path))
    assert "'guest'" in problem.message


def test_a_plugin_that_is_not_named_is_not_imported(workplace: Path, plugin):
    plugin("note('imported')")
    noether.run(write_spec(workplace, tiny_spec()), quiet=True)
    assert calls(workplace) == []


# The file noether_plugin.py

LOCAL = (
    CALLS
    + """
NAME = __name__
@noether.hookimpl
def run_finished(run, outcome): note(f"{Path(__file__).parent} {outcome.status}")
"""
)


def project(folder: Path, text: str = LOCAL, *, use: bool = True, specs: str = "specs") -> Path:
    """Write a project whose spec has a `noether_plugin.py` beside it; return the spec."""
    (folder / specs).mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").touch()
    (folder / specs / "noether_plugin.py").write_text(text)
    path = write_spec(folder / specs, tiny_spec(plugins={"use": ["noether_plugin"]} if use else {}))
    path.write_text(path.read_text().replace(str(folder / specs / "runs"), str(folder / "runs")))
    return path


def test_a_file_beside_the_spec_is_used_if_named(workplace: Path):
    path = project(workplace, use=False)
    noether.run(path, quiet=True)
    assert calls(workplace) == []
    noether.run(path, plugins=["noether_plugin"], quiet=True)
    noether.run(project(workplace), quiet=True)
    assert calls(workplace) == [f"{workplace / 'specs'} FINISHED"] * 2


def test_two_projects_in_one_process_have_two_files(workplace: Path):
    for name in ("one", "two", "one"):
        noether.run(project(workplace / name, specs="."), quiet=True)
    assert calls(workplace) == [f"{workplace / name} FINISHED" for name in ("one", "two", "one")]


def test_the_working_folder_has_the_file_of_an_option(workplace: Path):
    path = project(workplace, use=False)
    (path.parent / "noether_plugin.py").rename("noether_plugin.py")
    noether.run(path, plugins=["noether_plugin"], quiet=True)
    assert calls(workplace) == [f"{workplace} FINISHED"]


def test_a_resume_finds_the_file_in_the_project_or_says_what_is_missing(workplace: Path, monkeypatch):
    path = project(workplace / "first")
    monkeypatch.chdir(workplace / "first")
    outcome = noether.run(path, run_id="a", quiet=True)
    assert resume("a", quiet=True, set={"trainer.max_updates": 14}).status == "FINISHED"
    (outcome.run_dir / "noether_plugin.py").write_text("raise RuntimeError('code of a stranger')")
    monkeypatch.chdir(workplace)
    with pytest.raises(InvalidSpecError) as error:
        resume(outcome.run_dir, quiet=True, set={"trainer.max_updates": 16})
    assert "noether_plugin.py" in str(error.value)
    assert str(workplace / "first") in " ".join(error.value.__notes__)
    again = resume(outcome.run_dir, quiet=True, set={"trainer.max_updates": 16}, project=workplace / "first")
    assert again.status == "FINISHED"


def test_a_changed_file_is_told_as_other_code_of_the_project(workplace: Path):
    path = project(workplace)
    noether.run(path, run_id="a", quiet=True)
    with (path.parent / "noether_plugin.py").open("a") as file:
        file.write("# changed")
    assert any("the code of noether_plugin changed" in line for line in preview("a"))
    with pytest.raises(noether.errors.UsageError, match="the code of noether_plugin changed"):
        resume("a", quiet=True, set={"trainer.max_updates": 14}, strict_code=True)
    assert resume("a", quiet=True, set={"trainer.max_updates": 14}).status == "FINISHED"
    assert "the code of noether_plugin changed" in (workplace / "runs/a/log.txt").read_text()


def test_a_file_that_kinds_name_too_is_one_module(workplace: Path):
    text = LOCAL + (
        "from noether.core.callbacks import CallbackBase\nclass Mine(CallbackBase):\n"
        "    def before_training(self, **_): note(NAME)\n"
        "@noether.hookimpl\ndef before_training(): note(NAME)\n"
    )
    path = project(workplace, text, specs=".")
    noether.run(path, set={"trainer.callbacks": ["noether_plugin.Mine"]}, quiet=True)
    assert calls(workplace)[:2] == ["noether_plugin"] * 2


@pytest.mark.parametrize("text", ["import nowhere_to_be_found", "raise SystemExit(0)", "def f(:"])
def test_a_file_that_cannot_be_imported_is_named_with_its_place(workplace: Path, text: str):
    path = project(workplace, text)
    with pytest.raises(InvalidSpecError, match=r"noether_plugin\.py:1"):
        noether.run(path, quiet=True)
