"""`noether check` and `noether plugins`: specs and installed components."""

import json
import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch

import noether
from noether.cli import plugins
from noether.kernel.entries import Component


def test_every_spec_that_we_ship_is_valid(noether_command, shipped_spec):
    ended = noether_command("check", shipped_spec)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{shipped_spec}: valid\n"


def test_check_refuses_what_run_refuses(refusal, spec_file):
    assert "Did you mean 'max_epochs'?" in refusal("check", spec_file(), "-s", "trainer.max_epoch=3")


def test_check_trains_nothing(noether_command, spec_file, workplace):
    assert noether_command("check", spec_file()).code == 0
    assert not Path("runs").exists()


def test_plugins_list_is_json_where_asked_for(noether_command):
    ended = noether_command("plugins", "list", "--json")
    rows = json.loads(ended.out)
    (mlp,) = [row for row in rows if row["kind"] == "mlp"]
    assert mlp.pop("origin").startswith("noether-train ")
    target = "noether.core.models.mlp:MLP"
    assert mlp == {"role": "model", "kind": "mlp", "status": "ok", "note": "", "summary": "", "target": target}
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
    assert [row["origin"] for row in rows if row["kind"] == "fever"] == ["noether-plugin-sick 1.2"]


def test_the_summary_of_a_plugin_is_listed(noether_command, install):
    install("noether-plugin-kind", {"noether.callbacks": {"kind": "kind:Kind"}}, {}, "Summary: Is kind.")
    assert [
        row["summary"] for row in json.loads(noether_command("plugins", "list", "--json").out) if row["kind"] == "kind"
    ]
    assert noether_command("plugins", "list").out.splitlines()[0].split() == [
        "ROLE",
        "KIND",
        "ORIGIN",
        "STATUS",
        "SUMMARY",
    ]


def test_hooks_are_shown_with_arguments_moment_and_built_in_implementations(noether_command):
    (row,) = json.loads(noether_command("plugins", "hooks", "track_after_update_step", "--json").out)
    assert (row["hook"], row["arguments"]) == ("track_after_update_step", ["update_counter", "times"])
    assert row["fires"].startswith("Fires after each applied update")
    assert "ema" in [one["kind"] for one in row["implemented_by"]]


def test_all_hooks_are_shown_in_words(noether_command):
    shown = noether_command("plugins", "hooks").out
    assert "after_update(update_counter, trainer_model, data_iter, batch_size)\n  Fires after each update" in shown
    assert "  implemented by training-stability  (noether-train " in shown


def test_hooks_of_another_plugin_are_shown_if_it_is_named(noether_command, install, refusal):
    source = "import noether\n@noether.hookimpl\n@noether.every(epochs=1)\ndef periodic_callback(): ...\n"
    install("noether-plugin-tick", {"noether.plugins": {"tick": "ticking"}}, {"ticking": source})
    hooks = json.loads(noether_command("plugins", "hooks", "-p", "tick", "--json").out)
    implemented = [row["hook"] for row in hooks for one in row["implemented_by"] if one["kind"] == "tick"]
    assert implemented == ["periodic_callback", "at_eval"]
    hooks = json.loads(noether_command("plugins", "hooks", "--json").out)
    assert not [row for row in hooks for one in row["implemented_by"] if one["kind"] == "tick"]
    assert "'mlp' has no hooks" in refusal("plugins", "hooks", "-p", "mlp")
    assert "Did you mean 'after_epoch'?" in refusal("plugins", "hooks", "after_epoc")


ORDERED = """
import noether

@noether.hookimpl(wrapper=True)
def before_training():
    yield

@noether.hookimpl(tryfirst=True)
def after_epoch(): ...

@noether.hookimpl(trylast=True)
def after_training(): ...

@noether.every(updates=4)
@noether.hookimpl
def periodic_callback(): ...
"""


def test_the_order_of_a_spec_is_that_of_the_run(noether_command, install, spec_file, tiny_spec):
    install("noether-plugin-o", {"noether.plugins": {"ordered": "ordered"}}, {"ordered": ORDERED})
    nested = {"kind": "offline-loss", "dataset_key": "test", "every_n_epochs": 1}
    averages = {"kind": "ema", "target_factors": [0.9], "every_n_epochs": 2, "eval_callbacks": [nested]}
    spec = spec_file(trainer=tiny_spec["trainer"] | {"callbacks": [averages]}, plugins={"use": ["ordered"]})
    calls = json.loads(noether_command("plugins", "order", spec, "--json").out)

    def of(hook: str) -> list[tuple[str, str, str, str]]:
        return [
            tuple(call[key] for key in ("id", "place", "interval", "owner")) for call in calls if call["hook"] == hook
        ]

    assert of("before_training")[0] == ("ordered", "wrapper", "", "")
    assert ("ema", "component", "", "") in of("before_training")
    assert of("after_epoch")[0] == ("ordered", "first", "", "")
    assert ("ema", "component", "every_n_epochs=2", "") in of("after_epoch")
    assert ("ema/0.9/offline-loss", "child", "every_n_epochs=1", "ema") in of("after_epoch")
    assert of("after_update")[-1] == ("ordered", "plugin", "every_n_updates=4", "")
    assert of("after_training")[-1] == ("ordered", "last", "", "")
    assert of("at_eval") == []
    assert {call["origin"] for call in calls if call["id"] == "ordered"} == {"noether-plugin-o 1.2"}
    assert not Path("runs").exists()
    shown = noether_command("plugins", "order", spec, "-s", "trainer.max_epochs=0").out
    assert "at_eval" in shown
    assert "after_update" not in shown


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
        ("mlflow", "tags                table of string "),
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
    assert any(line.split()[:2] == ["groups", "list"] for line in page.splitlines())
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
    plugins._print_plugin(Component("plugin", "hello", types.ModuleType("hello"), None, "x", "1.0"))
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


def test_version_tells_torch_device_and_plugins(noether_command):
    first, *others = noether_command("--version").out.splitlines()
    assert first == f"noether {noether.__version__}"
    assert [line.split()[0] for line in others] == ["python", "torch", "plugins"]
    assert f"torch   {torch.__version__}, device " in others[1]
