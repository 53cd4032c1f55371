"""The words that a shell is offered after Tab, asked for as a shell does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noether.cli.completion import candidates

SCRIPT = Path(sys.executable).with_name("noether")


@pytest.fixture
def offered(noether_command: Callable[..., Any], workplace: Path, monkeypatch) -> Callable[..., list[str]]:
    """Return the words that bash is offered in place of the last one."""

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("_NOETHER_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["noether", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        ended = noether_command()
        assert ended.err == ""
        return str(ended.out).split()

    return ask


@pytest.fixture
def runs(four_runs: Path, workplace: Path) -> Path:
    return Path(shutil.copytree(four_runs, workplace / "runs"))


def test_verbs_and_the_verbs_of_a_group_are_offered(offered):
    assert offered("ru") == ["run", "runs"]
    assert offered("runs", "s") == ["show"]


def test_runs_are_offered_by_id_wherever_a_run_is_named(offered, runs: Path):
    (runs / "notes").mkdir()
    ids = sorted(path.name for path in runs.iterdir() if path.name != "notes")
    for words in (["eval"], ["resume"], ["runs", "show"], ["runs", "compare", ids[0]], ["runs", "delete"]):
        assert offered(*words, "") == ids
    assert offered("runs", "report", ids[0][:-1]) == [name for name in ids if name.startswith(ids[0][:-1])]
    runs.rename("elsewhere")
    assert offered("eval", "") == []
    assert offered("eval", "--output", "elsewhere", "") == ids


def test_checkpoints_of_the_run_are_offered_by_name_and_position(offered, runs: Path):
    run = sorted(runs.iterdir())[0]
    manifests = [json.loads(path.read_text()) for path in run.glob("checkpoints/*/manifest.json")]
    positions = {"E{epoch}_U{update}_S{sample}".format(**manifest) for manifest in manifests}
    names = {name for manifest in manifests for name in manifest["names"]}
    assert positions
    assert set(offered("eval", run.name, "--checkpoint", "")) == {"latest", *positions, *names}
    assert set(offered("checkpoint", "show", str(run), "E")) == positions
    assert offered("eval", "no-run", "--checkpoint", "") == []


def test_specs_are_offered_from_folders_below_and_those_of_runs_are_not(offered, runs: Path):
    deep = Path("specs/smoke")
    deep.mkdir(parents=True)
    for name in ("specs/a.toml", "specs/smoke/b.toml", "specs/notes.md", "pyproject.toml"):
        Path(name).touch()
    assert offered("run", "") == ["specs/a.toml", "specs/smoke/b.toml"]
    assert offered("check", "specs/smoke/") == ["specs/smoke/b.toml"]
    assert offered("plan", "./sp") == ["./specs/a.toml", "./specs/smoke/b.toml"]


def test_kinds_roles_and_plugins_are_offered(offered):
    assert offered("plugins", "info", "offline") == ["offline-loss", "offline-metrics"]
    assert offered("plugins", "info", "--role", "model", "") == ["cnn", "mlp"]
    assert offered("plugins", "list", "--role", "data") == ["dataset"]


def test_paths_of_the_spec_are_offered_a_part_at_a_time(offered, spec_file):
    spec = str(spec_file())
    parts = offered("run", spec, "-s", "")
    assert {"trainer.", "model.", "seed=", "checkpoints."} <= set(parts)
    assert offered("run", spec, "-s", "trainer.max_")[:2] == ["trainer.max_batch_size=", "trainer.max_epochs="]
    assert "model.optimizer." in offered("run", spec, "-s", "model.")
    assert "model.optimizer.weight_decay=" in offered("run", spec, "-s", "model.optimizer.")
    assert offered("run", "-s", "see") == ["seed=", "seed=VALUE"]  # the spec may follow
    assert "checkpoints.keep_last" in offered("spec", "explain", "checkpoints.keep_")


def test_a_path_that_is_sure_comes_with_its_value_so_that_no_shell_ends_the_word(offered, spec_file):
    spec = str(spec_file(seed=17))
    assert offered("run", spec, "-s", "see") == ["seed=", "seed=17"]
    assert offered("run", spec, "--unset", "see") == ["seed"]


def test_items_of_lists_and_keys_of_extended_files_are_offered(offered, tiny_spec, spec_file):
    callbacks = [{"kind": "ema", "every_n_updates": 1}, {"kind": "x.Own"}, {"kind": "ema", "id": "slow"}]
    spec_file(trainer=tiny_spec["trainer"] | {"callbacks": callbacks})
    Path("upper.toml").write_text('extends = ["tiny.toml"]\n[model]\nown_key = 3\n')
    found = offered("run", "upper.toml", "-s", "trainer.callbacks")
    assert found == ["trainer.callbacks.", "trainer.callbacks[ema].", "trainer.callbacks[slow]."]
    assert "trainer.callbacks[slow].target_factors=" in offered("run", "upper.toml", "-s", "trainer.callbacks[slow]")
    assert offered("run", "upper.toml", "-s", "model.own") == ["model.own_key=", "model.own_key=3"]


def test_offered_paths_are_paths_that_a_spec_takes(offered, spec_file, noether_command, monkeypatch):
    spec = str(spec_file())
    for path in ("trainer.max_epochs=2", "model.optimizer.lr=0.1", "loader.num_workers=0", "checkpoints.keep_last=1"):
        key = path.partition("=")[0]
        assert f"{key}=" in offered("run", spec, "-s", key)
        monkeypatch.delenv("_NOETHER_COMPLETE")
        assert noether_command("check", spec, "-s", path).code == 0


def test_a_word_that_a_shell_would_read_otherwise_is_left_out(offered, workplace: Path):
    for name in ("good", "$(touch x)", "a b", "`c`", "-d", "e;f", "g'h", "i\\", "j\nk"):
        (workplace / "runs" / name).mkdir(parents=True)
        (workplace / "runs" / name / "run.json").touch()
    Path("spec.toml").write_text("name = '$(touch x)'\n[model]\n'$(touch x)' = 1\n")
    assert offered("runs", "show", "") == ["good"]
    assert offered("run", "spec.toml", "-s", "name") == ["name=", "name=VALUE"]
    assert not [word for word in offered("run", "spec.toml", "-s", "model.") if "$" in word]


@pytest.mark.parametrize(
    "text", ["spec = [", "\udcff", "a" * (2 << 20), "[x]\n" + "a = " + "[" * 100_000, "extends = 3"]
)
def test_a_spec_that_cannot_be_read_offers_the_paths_of_every_spec(offered, workplace: Path, text: str):
    Path("spec.toml").write_text(text, "utf-8", "surrogateescape")
    assert offered("run", "spec.toml", "-s", "see") == ["seed=", "seed=VALUE"]


def test_no_error_shows(offered, workplace: Path, monkeypatch):
    Path("runs").touch()
    assert offered("eval", "") == []
    os.mkfifo("fifo.toml")
    assert offered("run", "fifo.toml", "-s", "see") == ["seed=", "seed=VALUE"]
    assert candidates("no such source", None, "") == []  # type: ignore[arg-type]
    monkeypatch.setattr("noether.cli.main.installed_commands", lambda: 1 / 0)
    assert offered("ru") == []


IN_SHELLS = {
    "bash": """eval "$(_NOETHER_COMPLETE=source_bash noether)"
        COMP_WORDS=(noether runs show RUN) COMP_CWORD=3
        _noether_completion noether
        printf "%s\\n" "${COMPREPLY[@]}"
        complete -p noether | grep -q -- "-o default -F _noether_completion" """,
    "zsh": """compdef() { }; _arguments() { print -r -- ${${1#*\\"}%\\"*} }
        eval "$(_NOETHER_COMPLETE=source_zsh noether)"
        words=(noether runs show RUN) CURRENT=4
        _noether_completion""",
    "fish": """_NOETHER_COMPLETE=source_fish noether | source
        complete --do-complete "noether runs show RUN" """,
}
"""Scripts that load the completion of a shell and print the words that it offers in place of a run's whole id."""


@pytest.mark.parametrize("name", IN_SHELLS)
def test_a_shell_itself_completes_the_command(runs: Path, workplace: Path, name: str):
    shell = shutil.which(name)
    if shell is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    run = sorted(path.name for path in runs.iterdir())[0]
    options = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}
    environment = {**os.environ, "PATH": f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(workplace)}
    command = [shell, options[name], "-c", IN_SHELLS[name].replace("RUN", run)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [run]
