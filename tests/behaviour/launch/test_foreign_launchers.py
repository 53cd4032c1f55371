"""WORLD_SIZE from another launcher: joined, or refused by one message; never half obeyed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import noether
from noether.errors import UsageError

OF_ONE_PROCESS = {
    "plan": ("plan", "spec.toml"),
    "check --deep": ("check", "spec.toml", "--deep"),
    "eval": ("eval", "runs/a"),
    "bench": ("bench", "spec.toml"),
    "verify-resume": ("verify-resume", "spec.toml", "--updates", "2"),
    "predict": ("predict", "runs/a", "--data", "test", "--out", "found"),
}


@pytest.fixture
def mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What mpirun and its like set, or a script around them."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")


@pytest.mark.parametrize("verb", ["run", "resume"])
def test_an_incomplete_launch_is_refused_before_training(
    spec_file: Path, noether_command: Callable, mpirun: None, workplace: Path, verb: str
):
    ended = noether_command(verb, "spec.toml" if verb == "run" else "runs/a")
    assert ended.code == 2 and ended.err.count("error") == 1
    assert "WORLD_SIZE=2" in ended.err and "LOCAL_RANK" in ended.err and "--nproc" in ended.err
    assert not (workplace / "runs").exists()


def test_a_launch_with_ranks_of_its_own_is_refused(spec_file: Path, noether_command: Callable, mpirun: None):
    ended = noether_command("run", "spec.toml", "--nproc", "2")
    assert ended.code == 2 and "--nproc" in ended.err


@pytest.mark.parametrize("arguments", OF_ONE_PROCESS.values(), ids=OF_ONE_PROCESS)
def test_a_verb_for_one_process_is_refused(
    spec_file: Path, noether_command: Callable, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
):
    noether.run(spec_file, run_id="a", quiet=True)
    before = sorted(Path.cwd().rglob("*"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = noether_command(*arguments)
    assert ended.code == 2 and "WORLD_SIZE" in ended.err and "`noether run`" in ended.err
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_verb_that_computes_nothing_is_unaffected(spec_file: Path, noether_command: Callable, mpirun: None):
    assert noether_command("check", "spec.toml").code == 0


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("RANK", "2"), ("LOCAL_RANK", "2"), ("WORLD_SIZE", "two")])
def test_numbers_that_do_not_fit_are_refused(
    tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    place = {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1, name: value}
    for variable, number in place.items():
        monkeypatch.setenv(variable, str(number))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(UsageError):
        noether.run(tiny_spec)


def test_one_process_that_is_started_again_continues_its_run(
    spec_file: Path, noether_command: Callable, monkeypatch: pytest.MonkeyPatch
):
    """As `torchrun --nproc-per-node 1 --max-restarts 2` does."""
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    assert "--run-id" in noether_command("run", "spec.toml", "-q").err
    assert noether_command("run", "spec.toml", "-q", "--run-id", "a").code == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert noether_command("run", "spec.toml", "-q", "--run-id", "a").code == 0
