"""`noether check` and `noether plugins`: specs and installed components."""

import json
import sys
import tomllib
import types
from pathlib import Path

import pytest

from noether.cli import plugins

PLUGIN_SPECS = {"darcy"}  # tested by the plugins that they need
SPECS = sorted(path for path in (Path(__file__).parents[3] / "specs").rglob("*.toml") if path.stem not in PLUGIN_SPECS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_every_spec_that_we_ship_is_valid(noether_command, spec):
    ended = noether_command("check", spec)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{spec}: valid\n"


def test_check_refuses_what_run_refuses(refusal, spec_file):
    assert "Did you mean 'max_epochs'?" in refusal("check", spec_file(), "-s", "trainer.max_epoch=3")


def test_check_trains_nothing(noether_command, spec_file, workplace):
    assert noether_command("check", spec_file()).code == 0
    assert not Path("runs").exists()


def test_plugins_list_is_json_where_asked_for(noether_command):
    ended = noether_command("plugins", "list", "--json")
    rows = json.loads(ended.out)
    assert {"role": "model", "kind": "mlp", "from": "noether-train 0.1.0", "target": "noether.core.models.mlp:MLP"} in [
        row | {"from": "noether-train 0.1.0"} for row in rows
    ]
    assert {row["role"] for row in rows} >= {"callback", "dataset", "loss", "model", "optimizer", "schedule", "tracker"}


def test_plugins_list_of_one_role(noether_command):
    rows = json.loads(noether_command("plugins", "list", "--role", "trackers", "--json").out)
    assert {row["kind"] for row in rows} >= {"mlflow", "noop"}
    assert {row["role"] for row in rows} == {"tracker"}


def test_plugins_list_of_an_unknown_role(refusal):
    assert "there is no role 'calback'. Did you mean 'callback'?" in refusal("plugins", "list", "--role", "calback")


def test_an_installed_plugin_is_listed_and_not_imported(noether_command, install):
    install(
        "noether-plugin-sick",
        {"noether.callbacks": {"fever": "noether_plugin_sick:Fever"}},
        {"noether_plugin_sick": "1 / 0\n"},
    )
    rows = json.loads(noether_command("plugins", "list", "--json").out)
    assert [row["from"] for row in rows if row["kind"] == "fever"] == ["noether-plugin-sick 1.2"]


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("mlp", "hidden"),
        ("AdamW", "weight_decay"),
        ("offline-loss", "dataset_key"),
        ("cosine", "over_updates"),
        ("weighted-loss", "field_weights"),
        ("huber", "delta"),
        ("normalize", "method"),
        ("torch.nn.Linear", "in_features"),
        ("torch.nn:Linear", "in_features"),
    ],
)
def test_plugins_info_shows_origin_and_options(noether_command, kind, option):
    ended = noether_command("plugins", "info", kind)
    assert (ended.code, ended.err) == (0, "")
    assert f"'{kind}' from " in ended.out
    assert any(line.startswith(f"{option} ") for line in ended.out.splitlines())


def test_the_example_of_plugins_info_is_toml_that_a_spec_takes(noether_command, spec_file):
    page = noether_command("plugins", "info", "offline-loss").out
    callbacks = tomllib.loads(page[page.index("[[trainer.callbacks]]") :])["trainer"]["callbacks"]
    assert callbacks == [{"kind": "offline-loss", "every_n_epochs": 1}]


def test_plugins_info_shows_the_options_of_tables_without_a_kind(noether_command):
    page = noether_command("plugins", "info", "AdamW").out
    assert any(line.split()[:2] == ["groups", "list[table]"] for line in page.splitlines())
    tables = page[page.index("each table of groups") :]
    for option in ("match", "lr_scale", "weight_decay", "decay_bias_and_norm"):
        assert f"\n{option} " in tables


def test_check_and_plan_tell_of_an_id_that_may_surprise(noether_command, spec_file, tiny_spec):
    losses = {"kind": "offline-loss", "id": "checkpoint", "every_n_epochs": 1, "dataset_key": "test"}
    spec = spec_file(
        trainer=tiny_spec["trainer"] | {"callbacks": [losses, {"kind": "checkpoint", "every_n_epochs": 1}]}
    )
    note = 'note: trainer.callbacks.1: its id is "checkpoint-2", because trainer.callbacks.0 has the id "checkpoint"\n'
    for verb in ("check", "plan"):
        assert note in noether_command(verb, spec).out


def test_plugins_info_of_a_class_in_a_module_without_a_package(noether_command, lab, monkeypatch):
    lab.with_name("lonely.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self, width: int) -> None: ...\n"
    )
    monkeypatch.setitem(sys.modules, "lonely", None)  # so that it is forgotten at the end
    del sys.modules["lonely"]
    ended = noether_command("plugins", "info", "lonely:Net")
    assert (ended.code, ended.err) == (0, "")
    assert any(line.startswith("width ") for line in ended.out.splitlines())


def test_a_run_plugin_without_a_docstring_has_no_empty_summary(capsys):
    plugin = types.ModuleType("hello")
    plugins._print_plugin(types.SimpleNamespace(kind="hello", origin="x 1.0", target=plugin))
    assert capsys.readouterr().out.startswith("run plugin 'hello' from x 1.0\n\nimplements no hook\n")


def test_plugins_info_of_an_unknown_kind(refusal):
    assert "Did you mean 'offline-loss'?" in refusal("plugins", "info", "ofline-loss")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["check", "--help"], ["plugins", "info", "--help"]]
)
def test_help_has_an_example(noether_command, arguments):
    ended = noether_command(*arguments)
    assert ended.code == 0
    assert "Example: noether" in ended.out


def test_version(noether_command):
    assert noether_command("--version").out.startswith("noether ")
