"""Resolution of a kind in a spec to its class."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from noether.errors import PluginError
from noether.kernel.entries import Component, Entry, installed_entries
from noether.kernel.registry import Registry, active_registry, use_registry

TORCH = "noether-train", "0.1.0"
ENTRIES = (
    Entry("optimizer", "AdamW", "torch.optim:AdamW", *TORCH),
    Entry("optimizer", "SGD", "torch.optim:SGD", *TORCH),
    Entry("loss", "l1", "torch.nn.functional:l1_loss", *TORCH),
    Entry("model", "straight", "torch.nn:Linear", *TORCH),
    Entry("model", "line", "torch.nn:Linear", *TORCH),
    Entry("optimizer", "sgd", "torch.optim:Adagrad", "noether-plugin-x", "1.2"),
    Entry("optimizer", "fast", "torch.optim:Adam", "noether-plugin-x", "1.2"),
    Entry("optimizer", "fast", "torch.optim:Adamax", "noether_plugin_y", "0.3"),
    Entry("optimizer", "only_x", "torch.optim:RAdam", "noether-plugin-x", "1.2"),
    Entry("optimizer", "broken", "missing_package.optim:Broken", "noether-plugin-x", "1.2"),
    Entry("optimizer", "gone", "torch.optim:NoSuchOptimizer", "noether-plugin-x", "1.2"),
    Entry("loss", "wrong", "torch.nn:Linear", "noether-plugin-x", "1.2"),
)


@pytest.fixture
def registry() -> Registry:
    return Registry(ENTRIES)


def refused(registry: Registry, role: str, kind: str) -> str:
    with pytest.raises(PluginError) as caught:
        registry.load(role, kind)
    return str(caught.value)


@pytest.mark.parametrize(
    "kind", ["AdamW", "adamw", "ADAMW", "torch.optim.AdamW", "torch.optim:AdamW", "torch.optim.adamw.AdamW"]
)
def test_every_spelling_of_a_built_in_is_the_same_component(registry: Registry, kind: str):
    import torch

    assert registry.load("optimizer", kind) == Component(
        "optimizer", "AdamW", torch.optim.AdamW, ENTRIES[0], "noether-train", "0.1.0"
    )


def test_hyphens_and_underscores_are_the_same(registry: Registry):
    assert registry.find("optimizer", "Only-X").target == "torch.optim:RAdam"
    assert registry.load("optimizer", "only-x").kind == "only_x"


def test_class_name_is_a_kind_too(registry: Registry):
    assert registry.find("model", "Linear").name == "straight"
    assert registry.find("optimizer", "RAdam").name == "only_x"


def test_plugin_cannot_take_a_built_in_name_but_is_reached_by_its_qualified_one(registry: Registry):
    assert registry.find("optimizer", "sgd").is_built_in
    component = registry.load("optimizer", "x/sgd")
    assert (component.kind, component.origin) == ("x/sgd", "noether-plugin-x 1.2")


def test_kind_that_was_qualified_stays_qualified(registry: Registry):
    assert registry.load("optimizer", "x/only-x").kind == "x/only_x"
    assert registry.load("optimizer", "noether-train/adamw").kind == "AdamW"


def test_dotted_path_of_a_contested_entry_is_qualified(registry: Registry):
    assert registry.load("optimizer", "torch.optim.Adam").kind == "x/fast"


def test_name_of_two_plugins_is_an_error_that_names_both_and_the_way_out(registry: Registry):
    text = refused(registry, "optimizer", "fast")
    assert "noether-plugin-x 1.2 (torch.optim:Adam) and noether_plugin_y 0.3 (torch.optim:Adamax)" in text
    assert "write kind = 'x/fast' or kind = 'y/fast'" in text
    assert registry.find("optimizer", "y/fast").version == "0.3"


def test_unknown_kind_names_the_nearest(registry: Registry):
    text = refused(registry, "optimizer", "admw")
    assert "unknown optimizer kind 'admw'. Did you mean 'AdamW'?" in text
    assert "noether plugins list --role optimizer" in text


def test_unknown_kind_far_from_all_lists_a_few(registry: Registry):
    assert "Known: AdamW, broken, fast" in refused(registry, "optimizer", "quantum")


def test_kind_of_another_role_is_reported_with_its_place(registry: Registry):
    assert "'AdamW' is an optimizer; it belongs in [model.optimizer]" in refused(registry, "callback", "adamw")


def test_plugin_that_is_not_installed_is_named_with_the_way_to_get_it(registry: Registry):
    assert "no plugin noether-plugin-z is installed" in refused(registry, "callback", "z/grad-norm")


def test_unknown_name_of_an_installed_plugin_names_its_nearest(registry: Registry):
    assert "Did you mean 'x/fast'?" in refused(registry, "optimizer", "x/fest")


def test_class_of_another_role_is_refused_with_its_own(registry: Registry):
    text = refused(registry, "optimizer", "torch.nn.Linear")
    assert "names the class Linear, which is not a subclass of torch.optim.Optimizer" in text
    assert "this is a model; it belongs in [model]" in text


MODULES = {
    "torch.nn.MSELoss": 'loss_fn = "mse"',
    "torch.nn.NLLLoss": 'loss_fn = "torch.nn.functional.nll_loss"',
    "torch.nn.BCEWithLogitsLoss": 'loss_fn = "torch.nn.functional.binary_cross_entropy_with_logits"',
    "torch.nn.CTCLoss": "def my_loss(input, target)",
    "torch.nn.Linear": "def my_loss(input, target)",
}


@pytest.mark.parametrize("kind", MODULES)
def test_module_as_a_loss_is_refused_with_the_function(kind: str):
    registry = Registry([Entry("loss", "mse", "torch.nn.functional:mse_loss", "noether-train", "0.1.0")])
    with pytest.raises(PluginError) as caught:
        registry.load("loss", kind)
    assert caught.value.hint == f"a loss is a function, not a module: {MODULES[kind]}"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("wrong", "names the class Linear, but a loss is a function that takes (input, target)"),
        ("torch.nn.functional", "names the module torch.nn.functional"),
        ("torch.nn.functional.relu", "cannot be called as loss(input=..., target=...): "),
        (
            "torch.nn.functional.triplet_margin_loss",
            "cannot be called as loss(input=..., target=...): missing",
        ),
    ],
)
def test_a_function_without_input_and_target_is_not_a_loss(registry: Registry, kind: str, reason: str):
    assert reason in refused(registry, "loss", kind)


def test_loss_written_in_c_is_taken_from_torch(registry: Registry):
    assert registry.load("loss", "torch.nn.functional.gelu").origin.startswith("torch 2.")


def test_failing_import_of_a_plugin_names_it_and_what_is_missing(registry: Registry):
    text = refused(registry, "optimizer", "broken")
    assert "cannot import optimizer 'broken' of noether-plugin-x 1.2: ModuleNotFoundError" in text
    assert "the package that has the module 'missing_package'" in text


def test_entry_point_without_its_attribute_is_explained(registry: Registry):
    assert "AttributeError: module 'torch.optim' has no attribute 'NoSuchOptimizer'" in refused(
        registry, "optimizer", "gone"
    )


def test_use_registry_holds_inside_its_block_only(registry: Registry):
    with use_registry(registry):
        assert active_registry() is registry
    assert active_registry() is not registry


def test_installed_registry_holds_our_entry_points():
    entry = Registry.installed().find("loss", "l1")
    assert (entry.target, entry.is_built_in) == ("torch.nn.functional:l1_loss", True)


def test_scan_reads_names_of_distributions_whole_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, metadata in (("whole", "Name: noether-plugin-whole\nVersion: 1.0\n"), ("damaged", "")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(metadata)
        (folder / "entry_points.txt").write_text(f"[noether.callbacks]\nof-{name} = package_{name}:Class [extra]\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert [(entry.target, entry.origin) for entry in installed_entries.__wrapped__()] == [
        ("package_damaged:Class", "damaged 1.0"),  # named after its folder
        ("package_whole:Class", "noether-plugin-whole 1.0"),
    ]


def test_listing_and_finding_import_nothing_heavy(tmp_path: Path):
    code = (
        "import sys; from noether.kernel.registry import Registry; registry = Registry.installed();"
        "print(registry.find('optimizer', 'AdamW').origin, len(registry.entries('callback')) > 0,"
        "[name for name in ('torch', 'numpy', 'mlflow', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "noether-train 0.1.0 True []"
