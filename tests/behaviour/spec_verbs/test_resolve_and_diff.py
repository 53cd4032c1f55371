import json
import tomllib
from pathlib import Path

import pytest


@pytest.fixture
def spec_file(noether_command, wing) -> Path:
    assert noether_command("spec", "init", "a.toml", "--data", wing, "--epochs", 1).code == 0
    return Path("a.toml")


def test_resolving_a_resolved_spec_changes_nothing(noether_command, shipped_spec):
    first = noether_command("spec", "resolve", shipped_spec)
    assert (first.code, first.err) == (0, "")
    Path("resolved.toml").write_text(first.out)
    assert noether_command("spec", "resolve", "resolved.toml").out == first.out


def test_a_spec_and_its_resolved_form_differ_in_nothing(noether_command, shipped_spec):
    noether_command("spec", "resolve", shipped_spec, "-o", "resolved/spec.toml")
    ended = noether_command("spec", "diff", shipped_spec, "resolved/spec.toml")
    assert (ended.code, ended.out, ended.err) == (0, "no difference\n", "")


def test_resolve_needs_no_data(noether_command, spec_file):
    Path("wing.npz").unlink()
    assert noether_command("spec", "resolve", spec_file).code == 0


def test_resolve_takes_overrides(noether_command, spec_file):
    out = noether_command("spec", "resolve", spec_file, "-s", "trainer.max_epochs=9").out
    assert tomllib.loads(out)["trainer"]["max_epochs"] == 9


def test_resolve_takes_what_to_unset_in_its_order(noether_command, spec_file):
    def threads(*options: str) -> int | str:
        return tomllib.loads(noether_command("spec", "resolve", spec_file, *options).out).get("threads")

    assert threads("-s", "threads=3", "--unset", "threads") == "auto"
    assert threads("-s", "threads=3", "--unset", "threads", "-s", "threads=2") == 2


def test_resolve_keeps_a_reference_to_the_environment(noether_command, spec_file, monkeypatch):
    monkeypatch.setenv("LR", "0.25")
    out = noether_command("spec", "resolve", spec_file, "-s", 'model.optimizer.lr={env="LR"}').out
    assert tomllib.loads(out)["model"]["optimizer"]["lr"] == {"env": "LR"}


def test_diff_shows_each_key_with_both_values(noether_command, spec_file):
    Path("b.toml").write_text(spec_file.read_text().replace("max_epochs = 1", "max_epochs = 2"))
    ended = noether_command("spec", "diff", spec_file, "b.toml")
    assert (ended.code, ended.out) == (1, "- a.toml\n+ b.toml\n\ntrainer.max_epochs\n  - 1\n  + 2\n")


def test_diff_is_json_where_asked_for(noether_command, spec_file):
    Path("b.toml").write_text(f"{spec_file.read_text()}\n[loader]\nprefetch_factor = 2\nnum_workers = 1\n")
    rows = json.loads(noether_command("spec", "diff", spec_file, "b.toml", "--json").out)
    assert rows == [
        {"key": "loader.num_workers", "left": 0, "right": 1},
        {"key": "loader.prefetch_factor", "right": 2},
    ]


@pytest.fixture
def runs(noether_command, spec_file) -> None:
    """Two runs that differ in one value."""
    for name, epochs in (("first", 1), ("second", 2)):
        chosen = ["--run-id", name, "-s", f"trainer.max_epochs={epochs}", "-s", 'trackers=["noop"]']
        assert noether_command("run", spec_file, "-q", *chosen).code == 0


@pytest.mark.usefixtures("runs")
def test_diff_takes_runs_by_folder_and_by_id(noether_command):
    ended = noether_command("spec", "diff", "runs/first", "second")
    assert (ended.code, ended.out) == (1, "- runs/first\n+ second\n\ntrainer.max_epochs\n  - 1\n  + 2\n")
    assert noether_command("spec", "diff", "first", "runs/first").code == 0


@pytest.mark.usefixtures("runs")
def test_a_run_also_holds_what_it_found_out(noether_command, spec_file):
    rows = json.loads(noether_command("spec", "diff", spec_file, "first", "--json").out)
    assert {"key": "model.in_features", "right": {"points": 3, "angle": 1}} in rows


def test_a_run_that_does_not_exist_is_reported_with_the_nearest_one(noether_command, spec_file):
    Path("runs/first").mkdir(parents=True)
    ended = noether_command("spec", "diff", "frist", spec_file)
    assert ended.code == 2
    assert "there is no spec or run 'frist'. Did you mean 'first'?" in ended.err


def test_a_folder_that_is_not_a_run_is_reported(noether_command, spec_file):
    Path("data").mkdir()
    ended = noether_command("spec", "diff", "data", spec_file)
    assert (ended.code, ended.err) == (2, "error: data is not a run folder: it has no resolved spec\n")
