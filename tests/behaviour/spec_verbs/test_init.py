"""`noether spec init` writes a spec that runs unchanged."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

QUICK = ["-q", "-s", 'trackers=["noop"]', "-s", "trainer.max_epochs=1"]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_without_data_it_learns_the_digits(noether_command, model):
    ended = noether_command("spec", "init", "digits.toml", "--model", model)
    assert (ended.code, ended.out) == (0, "wrote digits.toml; next: noether run digits.toml\n")
    assert noether_command("run", "digits.toml", *QUICK).code == 0


def test_for_a_data_file_it_predicts_its_targets(noether_command, wing):
    assert noether_command("spec", "init", "specs/wing.toml", "--data", wing).code == 0
    spec = tomllib.loads(Path("specs/wing.toml").read_text())
    assert spec["name"] == "wing"
    assert spec["datasets"]["train"]["path"] == "../wing.npz"
    assert spec["trainer"]["forward_properties"] == ["points", "angle"]
    assert spec["trainer"]["field_weights"] == {"pressure": 1.0}
    assert noether_command("run", "specs/wing.toml", *QUICK).code == 0


def test_for_images_it_predicts_classes(noether_command, workplace):
    rng = np.random.default_rng(0)
    np.savez("scans.npz", image=rng.random((40, 1, 8, 8)), digit=rng.integers(0, 4, 40))
    init = ["spec", "init", "a.toml", "--data", "scans.npz", "--targets", "digit", "--model", "cnn"]
    assert noether_command(*init).code == 0
    assert tomllib.loads(Path("a.toml").read_text())["model"]["out_features"] == {"digit": 4}
    assert noether_command("run", "a.toml", *QUICK).code == 0


def test_what_it_writes_passes_a_linter(noether_command, lint, wing):
    noether_command("spec", "init", "a.toml", "--data", wing)
    assert lint(Path("a.toml").read_text()) == ""


def test_flags_are_in_the_spec(noether_command):
    noether_command("spec", "init", "a.toml", "--name", "My Run", "--epochs", 7, "--batch-size", 16, "--lr", 0.1)
    spec = tomllib.loads(Path("a.toml").read_text())
    assert spec["name"] == "my-run"
    assert (spec["trainer"]["max_epochs"], spec["trainer"]["effective_batch_size"]) == (7, 16)
    assert spec["model"]["optimizer"]["lr"] == 0.1


def test_it_overwrites_nothing(noether_command, workplace):
    Path("a.toml").write_text("mine")
    ended = noether_command("spec", "init", "a.toml")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: a.toml exists already")
    assert Path("a.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.npz"], "nowhere.npz does not exist"),
        (["--data", "wing.npz", "--targets", "presure"], "Did you mean 'pressure_target'?"),
        (["--data", "broken.npz"], "non-finite values in 'x': found 1 of 6"),
        (["--data", "uneven.npz"], "found x: 6, y_target: 5"),
        (["--model", "mpl"], "Did you mean 'mlp'?"),
        (["--targets", "x"], "name arrays of a data file"),
    ],
)
def test_data_without_a_spec_is_refused_and_nothing_is_written(noether_command, wing, arguments, message):
    np.savez("broken.npz", x=np.array([1, 2, np.nan, 3, 4, 5]), y_target=np.arange(6.0))
    np.savez("uneven.npz", x=np.arange(6.0), y_target=np.arange(5.0))
    ended = noether_command("spec", "init", "a.toml", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert not Path("a.toml").exists()
