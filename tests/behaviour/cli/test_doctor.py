"""`noether plugins doctor`: the defects of installed plugins, each found in a process of its own."""

import json
from collections.abc import Callable
from typing import Any

import pytest

GOOD = """
import noether

@noether.hookimpl
def run_started(run): ...
"""
CALLBACK = """
from noether.core.callbacks import PeriodicCallback

class Thing(PeriodicCallback):
    def periodic_callback(self, *, update_counter): ...
"""

ABSTRACT = f"""
import abc
{CALLBACK.replace("(PeriodicCallback)", "(PeriodicCallback, abc.ABC)")}
    @abc.abstractmethod
    def unknown(self): ...
"""


@pytest.fixture
def examined(install: Callable[..., None], noether_command) -> Callable[..., dict[str, Any]]:
    """Install a plugin of one module, and return the report of the doctor."""

    def examine(source: str, *metadata: str, group: str = "plugins", options: tuple[str, ...] = ()) -> dict[str, Any]:
        target = "odd" if group == "plugins" else "odd:Thing"
        install("noether-plugin-odd", {f"noether.{group}": {"thing": target}}, {"odd": source}, *metadata)
        ended = noether_command("plugins", "doctor", "noether-plugin-odd", "--json", *options)
        (report,) = json.loads(ended.out)
        assert ended.code == (1 if report["problems"] else 0)
        assert ended.err == ""
        return report

    return examine


def test_a_good_plugin_has_its_cost_and_no_problem(examined):
    report = examined(GOOD)
    assert (report["origin"], report["problems"], report["notes"]) == ("noether-plugin-odd 1.2", [], [])
    assert report["imports_torch"] is False
    assert 0 <= report["seconds"] < 60
    assert report["memory_mib"] >= 0


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(7)", "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import threading; threading.Event().wait()", "longer than 1 s"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "__str__ raised"),
    ],
    ids=["raises", "exits", "ends its process", "kills its process", "interrupts", "hangs", "no text"],
)
def test_an_import_that_fails_in_any_way_is_a_problem_and_not_the_end(examined, source, problem):
    report = examined(source, options=("--time-limit", "1") if "wait" in source else ())
    assert any(problem in found for found in report["problems"]), report


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("import random; random.random()", "the generator of random"),
        ("import os; os.chdir('/')", "the working folder"),
        ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signal handlers"),
        ("print('hello')", "prints to standard output"),
        ("import os; os.write(1, b'hello')", "prints to standard output"),
    ],
)
def test_a_change_of_the_process_on_import_is_a_problem(examined, change, problem):
    (found,) = examined(change + GOOD)["problems"]
    assert problem in found


def test_a_change_of_numpy_and_torch_is_a_problem_although_the_plugin_imports_them_itself(examined):
    changes = """
import numpy, torch
numpy.random.rand()
torch.manual_seed(3)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(torch.get_num_threads() + 1)
torch.set_grad_enabled(False)
"""
    changed = ("the generator of numpy", "the generator of torch", "torch's default dtype", "torch's threads")
    expected = [f"changes {what} on import" for what in (*changed, "torch's gradient mode")]
    assert examined(changes + GOOD)["problems"] == expected


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("import warnings; warnings.simplefilter('ignore')", "filters of warnings"),
        ("import logging; logging.basicConfig(level=10)", "the root logger"),
        ("import os; os.environ['ODD'] = '1'", "environment variables"),
        ("import threading as t; t.Thread(target=t.Event().wait, name='odd').start()", "the thread 'odd'"),
    ],
)
def test_a_change_that_no_run_depends_on_is_a_note(examined, change, note):
    report = examined(change + GOOD)
    assert report["problems"] == []
    assert note in " ".join(report["notes"])


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("import json; json.dumps = lambda *_, **__: 'null'", ""),
        ("import os, sys; os.close(1); sys.stdout = None", ""),
        ("import os\nif not os.fork(): pass", ""),
        ("import subprocess as s; s.Popen(['sleep', '600'], start_new_session=True)", "starts the process 'sleep'"),
    ],
    ids=["changes json", "closes its output", "forks", "starts a daemon"],
)
def test_a_plugin_that_meddles_with_its_process_has_a_report_all_the_same(examined, change, note):
    report = examined(change + GOOD)
    assert report["problems"] == []
    assert note in " ".join(report["notes"])


def test_a_plugin_that_removes_its_working_folder_has_changed_it(examined):
    change = "import os, tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())"
    assert examined(change + GOOD)["problems"] == ["changes the working folder on import"]


def test_a_class_that_cannot_be_looked_at_is_a_problem(examined):
    source = f"""
{CALLBACK}
class Meta(type(Thing)):
    def __getattribute__(cls, name):
        if name == "__mro__":
            raise SystemExit(4)
        return super().__getattribute__(name)

class Thing(Thing, metaclass=Meta): ...
"""
    (problem,) = examined(source, group="callbacks")["problems"]
    assert "cannot be used: SystemExit: 4" in problem


def test_what_a_spec_could_not_use_is_a_problem(noether_command, install):
    modules = {
        "base": ("class Thing: ...", "callbacks", "not a subclass of"),
        "verb": ("Thing = 3", "commands", "a command is a function"),
        "argument": (f"{CALLBACK}\n    def after_training(self, *, counter): ...", "callbacks", "argument 'counter'"),
        "name": (f"{CALLBACK}\n    def after_trainning(self): ...", "callbacks", "Did you mean 'after_training'"),
        "mark": (f"{GOOD}\n@noether.hookimpl\ndef after_trainning(): ...\nThing = None", "plugins", "is not a hook"),
        "hookless": ("class Thing:\n    pass\nThing = Thing()", "plugins", "implements no hook"),
        "config": (f"{CALLBACK}\n    def __init__(self, config: 'Nowhere', **_): ...", "callbacks", "be evaluated"),
        "abstract": (ABSTRACT, "callbacks", "is abstract"),
    }
    groups: dict[str, dict[str, str]] = {}
    for name, (_, group, _) in modules.items():
        groups.setdefault(f"noether.{group}", {})[name] = f"odd_{name}" + ("" if name == "mark" else ":Thing")
    install("noether-plugin-odd", groups, {f"odd_{name}": source for name, (source, _, _) in modules.items()})
    ended = noether_command("plugins", "doctor", "odd", "--json")
    (report,) = json.loads(ended.out)
    assert len(report["problems"]) == len(modules)
    assert report["imports_torch"] is True
    for name, (_, _, problem) in modules.items():
        assert any(problem in found for found in report["problems"]), (name, report["problems"])


def test_versions_and_names_are_checked_too(examined, install):
    install("noether-plugin-other", {"noether.callbacks": {"other": "other:Other"}}, {"other": ""})
    install("noether-plugin-same", {"noether.plugins": {"thing": "same"}}, {"same": GOOD})
    report = examined(GOOD, "Requires-Dist: noether-train>=7")
    assert 'python -m pip install "noether-train>=7"' in " ".join(report["problems"])


def test_every_plugin_has_a_row_whatever_another_one_does(noether_command, install):
    for name, source in {"bad": "import os; os._exit(0)", "good": GOOD, "same": GOOD}.items():
        kind = "thing" if name != "bad" else "bad"
        install(f"noether-plugin-{name}", {"noether.plugins": {kind: name}}, {name: source})
    ended = noether_command("plugins", "doctor", "--json")
    problems = {report["origin"]: report["problems"] for report in json.loads(ended.out)}
    assert problems.keys() >= {f"noether-plugin-{name} 1.2" for name in ("bad", "good", "same")}
    assert "exit code 0" in problems["noether-plugin-bad 1.2"][0]
    assert problems["noether-plugin-good 1.2"] == [
        "run plugin 'thing': also of noether-plugin-same 1.2: write good/thing"
    ]
    shown = noether_command("plugins", "doctor")
    assert shown.code == 1
    assert "write good/thing" in shown.out
    assert "python -m pip install --upgrade noether-plugin-bad" in shown.out


def test_one_plugin_is_found_by_its_distribution_or_its_kind(noether_command, install, refusal):
    for name in ("one", "two"):
        install(f"noether-plugin-{name}", {"noether.plugins": {f"of-{name}": name}}, {name: GOOD})
    for name in ("noether-plugin-one", "one", "of-one", "one/of-one"):
        (report,) = json.loads(noether_command("plugins", "doctor", name, "--json").out)
        assert report["origin"] == "noether-plugin-one 1.2"
    assert "Did you mean 'of-one'?" in refusal("plugins", "doctor", "of-onee")


def test_without_plugins_nothing_is_wrong(noether_command, monkeypatch):
    monkeypatch.setattr("noether.cli.doctor.installed_entries", tuple)
    assert noether_command("plugins", "doctor").code == 0


def test_a_distribution_whose_entry_points_cannot_be_read_has_a_row(noether_command, install, workplace):
    install("noether-plugin-torn", {}, {})
    (workplace / "site/noether_plugin_torn-1.2.dist-info/entry_points.txt").write_text("[noether.callbacks]\ntorn\n")
    ended = noether_command("plugins", "doctor", "--json")
    assert ended.code == 1
    (report,) = (one for one in json.loads(ended.out) if one["origin"] == "noether-plugin-torn 1.2")
    assert "cannot be read" in report["problems"][0]


def test_a_distribution_whose_metadata_cannot_be_read_has_the_name_of_its_folder(noether_command, install, workplace):
    install("noether-plugin-torn", {}, {})
    for name in ("METADATA", "entry_points.txt"):
        (workplace / "site/noether_plugin_torn-1.2.dist-info" / name).write_bytes(b"Name: caf\xe9")
    (report,) = json.loads(noether_command("plugins", "doctor", "--json").out)
    assert report["origin"] == "noether-plugin-torn 1.2"


def test_a_defect_of_what_has_two_names_is_reported_once(install, noether_command):
    source = "import noether\n\n@noether.hookimpl\ndef run_finished(run, outcom): ...\n"
    install("noether-plugin-odd", {"noether.plugins": {"thing": "odd", "other": "odd"}}, {"odd": source})
    (report,) = json.loads(noether_command("plugins", "doctor", "noether-plugin-odd", "--json").out)
    (problem,) = report["problems"]
    assert "outcom" in problem
