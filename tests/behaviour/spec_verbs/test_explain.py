import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def experiment(specs: Path, workplace: Path) -> Path:
    """The flagship spec under a short name."""
    path = Path("a.toml")
    path.write_text((specs / "experiment.toml").read_text())
    return path


def test_a_key_of_a_spec_shows_value_chain_and_documentation(noether_command, experiment):
    ended = noether_command("spec", "explain", "trainer.max_epochs", experiment, "-s", "trainer.max_epochs=5")
    assert ended.code == 0
    assert ended.out == (
        "trainer.max_epochs = 5\n"
        "  5      command line, argument 1\n"
        "  10     a.toml:35:14\n"
        "  unset  default of weighted-loss\n"
        "\n"
        "  meaning  Epochs to train for; 0 trains nothing and calls every callback once.\n"
        "  type     integer, at least 0\n"
        "  unit     epochs\n"
        "  default  unset\n"
        "  example  100\n"
    )


def test_a_key_without_a_spec_shows_its_documentation(noether_command, noether_registry):
    ended = noether_command("spec", "explain", "model.hidden")
    assert ended.out.startswith("model.hidden of cnn\n  meaning  Width of the layer")
    assert "\nmodel.hidden of mlp\n  meaning  Widths of the hidden layers.\n" in ended.out


def test_kinds_that_mean_the_same_are_reported_together(noether_command):
    out = noether_command("spec", "explain", "model.optimizer.lr").out
    assert "model.optimizer.lr of Adam, AdamW, " in out


def test_what_a_component_may_be_is_listed(noether_command, noether_registry):
    assert "  kinds    cnn, mlp\n" in noether_command("spec", "explain", "model").out


def test_it_is_json_where_asked_for(noether_command, experiment):
    body = json.loads(noether_command("spec", "explain", "seed", experiment, "--json").out)
    assert (body["value"], body["said"]) == (0, [{"value": 0, "where": "a.toml:9:8"}])
    (documentation,) = json.loads(noether_command("spec", "explain", "seed", "--json").out)
    assert documentation["type"] == "integer, at least 0"


def test_a_secret_is_not_shown(noether_command, experiment, monkeypatch):
    monkeypatch.setenv("TOKEN", "http://me:hunter2@host")
    secret = 'trackers=[{kind="mlflow", tracking_uri={env="TOKEN", secret=true}}]'
    ended = noether_command("spec", "explain", "trackers.0.tracking_uri", experiment, "-s", secret)
    assert ended.code == 0
    assert 'env = "TOKEN"' in ended.out
    assert "hunter2" not in ended.out


@pytest.mark.parametrize("with_spec", [True, False])
def test_an_unknown_key_is_an_error(noether_command, experiment, with_spec):
    ended = noether_command("spec", "explain", "trainer.max_epoch", *([experiment] if with_spec else []))
    assert (ended.code, ended.out) == (2, "")
    assert """error[unknown-path]: trainer has no key "max_epoch". Did you mean 'max_epochs'?""" in ended.err


def test_overrides_need_a_spec(noether_command):
    assert "-s goes with a spec" in noether_command("spec", "explain", "seed", "-s", "seed=3").err
    assert "--unset goes with a spec" in noether_command("spec", "explain", "seed", "--unset", "seed").err


def test_an_unset_key_is_explained_by_its_default(noether_command, experiment):
    ended = noether_command("spec", "explain", "seed", experiment, "-s", "seed=3", "--unset", "seed")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("seed = 0\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "trainer.max_epochs"],
        ["explain", "trainer.callbacks.0.every_n_epochs"],
        ["init", "new.toml"],
    ],
    ids=" ".join,
)
def test_what_needs_no_torch_does_not_import_it(arguments, experiment):
    program = (
        "import sys\nfrom noether.cli.main import app\n"
        f"app({['spec', *arguments]!r}, standalone_mode=False)\n"
        "assert not {'torch', 'mlflow', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["resolve", "explain", "diff", "schema", "init"])
def test_help_has_an_example(noether_command, verb):
    assert f"Example: noether spec {verb}" in noether_command("spec", verb, "--help").out
