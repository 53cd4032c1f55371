"""Plugins that are wrong: each is named with its version and a way out, and stands in the way of nothing else."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

NAME = "noether-plugin-bad"
CALLBACK = """
from noether.core.callbacks import PeriodicCallback

class Bad(PeriodicCallback):
    def periodic_callback(self, *, update_counter):
        self.writer.add_scalar("bad", update_counter.update)
"""
UNKNOWN_ARGUMENT = CALLBACK + "\n    def after_training(self, *, update_counter, loss): ...\n"
WRONG = {
    "raises on import": ("1 / 0\n", "ZeroDivisionError"),
    "exits on import": ("import sys; sys.exit(0)\n", "SystemExit"),
    "lacks what it registers": ("Other = 1\n", "no attribute 'Bad'"),
    "is of the wrong type": ("class Bad: ...\n", "not a subclass of noether.core.callbacks.base.CallbackBase"),
    "has a hook with an unknown argument": (UNKNOWN_ARGUMENT, "after_training has no argument 'loss'"),
}


@pytest.fixture
def installed(install: Callable[..., None]) -> Callable[..., None]:
    """Installs `noether-plugin-bad 1.2`, which registers the callback `bad` of its one module."""

    def installed(source: str, *metadata: str, kind: str = "bad") -> None:
        install(NAME, {"noether.callbacks": {kind: "noether_bad:Bad"}}, {"noether_bad": source}, *metadata)

    return installed


@pytest.fixture
def named(spec_file: Callable[..., Path], tiny_spec: dict[str, Any]) -> Callable[..., Path]:
    """Write a spec that names the callback."""

    def write(kind: str = "bad") -> Path:
        return spec_file(trainer=tiny_spec["trainer"] | {"callbacks": [{"kind": kind, "every_n_epochs": 1}]})

    return write


def rows(noether_command) -> list[dict[str, str]]:
    ended = noether_command("plugins", "list", "--json")
    assert (ended.code, ended.err) == (0, "")
    return [row for row in json.loads(ended.out) if row["origin"].startswith(NAME)]


@pytest.mark.parametrize(("source", "problem"), WRONG.values(), ids=WRONG)
def test_what_names_a_wrong_plugin_is_refused_with_its_version_and_a_way_out(
    noether_command, refusal, installed, named, source, problem
):
    installed(source)
    assert [row["status"] for row in rows(noether_command)] == ["ok"]  # only an import tells
    for verb in ("check", "run"):
        error = refusal(verb, named())
        assert problem in error
        assert f"{NAME} 1.2" in error
        assert f"python -m pip install --upgrade {NAME}" in error
    shown = noether_command("plugins", "info", "bad")
    assert problem in shown.out + shown.err
    assert f"{NAME} 1.2" in shown.out + shown.err


@pytest.mark.parametrize("source", [source for source, _ in WRONG.values()], ids=WRONG)
def test_a_run_that_does_not_name_a_wrong_plugin_is_what_it_was(noether_command, installed, spec_file, source):
    installed(source)
    assert (
        noether_command("run", spec_file(), "-q", "-s", "trainer.max_updates=1", "--unset", "trainer.max_epochs").code
        == 0
    )


@pytest.mark.parametrize(
    ("needs", "remedy"),
    [
        (">=7,<8", 'python -m pip install "noether-train<8,>=7"'),
        ("==7.*", 'python -m pip install "noether-train==7.*"'),
        ("<0.1", f"python -m pip install --upgrade {NAME}"),
        (">>1", f"python -m pip install --upgrade {NAME}"),
        (">=0.1,<0.1", f"python -m pip install --upgrade {NAME}"),
        ('>=0.1; python_version ~= "abc"', f"python -m pip install --upgrade {NAME}"),
    ],
)
def test_a_plugin_for_another_version_is_refused_before_its_import_with_the_line_that_mends_it(
    noether_command, refusal, installed, named, needs, remedy
):
    installed("raise AssertionError('imported')\n", f"Requires-Dist: noether-train{needs}")
    for arguments in (
        ("check", named()),
        ("run", named()),
        ("plugins", "info", "bad"),
        ("check", named("noether_bad.Bad")),
    ):
        error = refusal(*arguments)
        assert remedy in error
        assert f"{NAME} 1.2" in error
        assert "found noether-train 0.1.0" in error
        assert "imported" not in error
    (row,) = rows(noether_command)
    assert row["status"] in ("too old", "too new")
    assert remedy in row["note"]


@pytest.mark.parametrize("spelled", ["Noether.Train", "noether_train", "noether--train", "noether-train[hdf5]"])
def test_a_requirement_holds_however_its_name_is_spelled(noether_command, refusal, installed, named, spelled):
    installed(CALLBACK, f"Requires-Dist: {spelled}>=7")
    assert 'python -m pip install "noether-train>=7"' in refusal("check", named())
    assert [row["status"] for row in rows(noether_command)] == ["too new"]


@pytest.mark.parametrize("needs", [">=0.1,<0.2", "", '>=7 ; extra == "test"', '>=7 ; python_version < "3"'])
def test_a_plugin_whose_requirement_holds_runs(noether_command, installed, named, needs):
    installed(CALLBACK, f"Requires-Dist: noether-train{needs}", "Requires-Dist: noether-train-tools>=9")
    assert noether_command("check", named()).code == 0
    assert [row["status"] for row in rows(noether_command)] == ["ok"]


@pytest.mark.parametrize(
    ("group", "arguments"), [("plugins", ("run", "tiny.toml", "-p", "bad")), ("commands", ("bad",))]
)
def test_run_plugins_and_verbs_of_another_version_are_refused_too(refusal, install, spec_file, group, arguments):
    install(
        NAME, {f"noether.{group}": {"bad": "noether_bad:bad"}}, {"noether_bad": ""}, "Requires-Dist: noether-train>7"
    )
    spec_file()
    error = refusal(*arguments)
    assert "'bad' of noether-plugin-bad 1.2 needs noether-train>7" in error
    assert 'python -m pip install "noether-train>7"' in error


def test_a_kind_that_is_built_in_stays_so_and_the_list_says_what_to_write(noether_command, installed, named):
    installed("1 / 0\n", kind="peak-memory")
    assert noether_command("run", named("peak-memory"), "-q").code == 0
    (row,) = rows(noether_command)
    assert (row["status"], row["note"]) == ("shadowed", "'peak-memory' is built in: write bad/peak-memory")


def test_a_verb_that_is_built_in_stays_so_and_the_list_says_what_to_write(noether_command, install):
    install(NAME, {"noether.commands": {"check": "noether_bad:bad"}}, {"noether_bad": "1 / 0\n"})
    (row,) = rows(noether_command)
    assert (row["status"], row["note"]) == ("shadowed", "'check' is built in: write bad/check")


def test_a_kind_that_two_plugins_claim_is_refused_on_use_and_listed_as_a_conflict(
    noether_command, refusal, install, installed, named
):
    installed(CALLBACK)
    install("noether-plugin-other", {"noether.callbacks": {"Bad": "other_bad:Bad"}}, {"other_bad": "1 / 0\n"})
    for verb in ("check", "run"):
        error = refusal(verb, named())
        assert f"{NAME} 1.2" in error
        assert "noether-plugin-other 1.2" in error
        assert "kind = 'bad/bad'" in error
    assert noether_command("check", named("bad/bad")).code == 0
    (row,) = rows(noether_command)
    assert (row["status"], row["note"]) == ("conflict", "also of noether-plugin-other 1.2: write bad/bad")


@pytest.mark.parametrize("text", ["[noether.callbacks]\nbad\n", "\x00\udcff\n", "[noether.callbacks]\nbad = \n"])
def test_damaged_entry_points_of_one_distribution_hide_no_other(noether_command, install, spec_file, text):
    install("noether-plugin-good", {"noether.callbacks": {"good": "good:Good"}}, {})
    install(NAME, {}, {})
    Path("site/noether_plugin_bad-1.2.dist-info/entry_points.txt").write_text(text, errors="surrogateescape")
    (row,) = rows(noether_command)
    assert row["status"] == "invalid"
    assert f"python -m pip install --upgrade {NAME}" in row["note"]
    listed = json.loads(noether_command("plugins", "list", "--json").out)
    assert "good" in [row["kind"] for row in listed]
    assert noether_command("run", spec_file(), "-q", "-s", "trainer.max_epochs=1").code == 0


def test_prints_on_import_do_not_reach_standard_output(noether_command, installed, named):
    installed(f"print('hello')\n{CALLBACK}")
    ended = noether_command("check", named(), "--format", "json")
    assert (ended.code, json.loads(ended.out), ended.err) == (0, [], "hello\n")


@pytest.mark.parametrize("verb", [("plan",), ("plugins", "order")])
def test_json_of_a_spec_whose_plugin_prints_is_json(noether_command, installed, named, verb):
    installed(f"print('hello')\n{CALLBACK}")
    ended = noether_command(*verb, named(), "--json")
    assert json.loads(ended.out)
    assert "hello" in ended.err


def test_a_plugin_that_changes_generators_on_import_changes_no_run(noether_command, installed, named, spec_file):
    draws = "import random, numpy, torch\nrandom.seed(3)\nnumpy.random.seed(3)\ntorch.manual_seed(3)\ntorch.rand(5)\n"
    assert noether_command("run", spec_file(), "-q", "--run-id", "without").code == 0
    installed(draws + CALLBACK)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert noether_command("run", named(), "-q", "--run-id", "with").code == 0
    assert random.getstate() != before[0], "the plugin was imported before"
    weights = [next(Path(f"runs/{run}").glob("checkpoints/*/model.safetensors")) for run in ("without", "with")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


FAILS = """
        if update_counter.epoch == 2:
            raise RuntimeError("after the checkpoint of the first epoch")
"""


@pytest.mark.parametrize("value", ["self.seen", "{'deep': torch.tensor(self.seen)}"], ids=["number", "tensor"])
def test_a_callback_that_forgets_what_it_saved_is_refused_on_resume_with_its_version(
    noether_command, installed, spec_file, tiny_spec, value
):
    forgets = f"""
        self.seen += 1
    def state_dict(self): return {{'seen': {value}}}
    def load_state_dict(self, state): pass
    seen = 0
"""
    installed("import torch\n" + CALLBACK + FAILS + forgets)
    callbacks = [{"kind": "bad", "every_n_epochs": 1}, {"kind": "checkpoint", "every_n_epochs": 1}]
    spec = spec_file(trainer=tiny_spec["trainer"] | {"callbacks": callbacks})
    assert noether_command("run", spec, "-q", "--run-id", "one").code == 1
    ended = noether_command("resume", "one", "-q")
    assert ended.code == 3
    assert f"callback 'bad' (kind bad, {NAME} 1.2)" in ended.err


def test_a_callback_that_misses_a_key_of_its_state_is_refused_on_resume_with_its_version(
    noether_command, installed, named
):
    misses = "    def state_dict(self): return {'a': 1}\n    def load_state_dict(self, state): state['b']\n"
    installed(CALLBACK + misses)
    assert noether_command("run", named(), "-q", "--run-id", "one").code == 0
    ended = noether_command("resume", "one", "-q", "-s", "trainer.max_epochs=3")
    assert ended.code != 0
    assert "KeyError: 'b'" in ended.err
    assert f"{NAME} 1.2" in ended.err
