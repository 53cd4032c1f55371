"""Run plugins are loaded by name only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import noether
from noether.errors import PluginError
from noether.kernel.entries import Entry
from noether.kernel.participant import load_plugins
from noether.kernel.registry import Registry

MODULE = "noether_plugin_of_this_test"


@noether.hookimpl
def run_finished(outcome):
    return outcome


class Plugin:
    """An object with a hook; its class is not a plugin."""

    run_finished = staticmethod(run_finished)


@pytest.fixture
def registry() -> Iterator[Registry]:
    module: Any = ModuleType(MODULE)
    module.run_finished = run_finished
    module.instance = Plugin()
    module.Plugin = Plugin
    module.empty = SimpleNamespace(run_finish=lambda outcome: None)
    sys.modules[MODULE] = module
    names = {
        "hello": MODULE,
        "object": f"{MODULE}:instance",
        "class": f"{MODULE}:Plugin",
        "empty": f"{MODULE}:empty",
    }
    entries = [Entry("plugin", name, target, "noether-plugin-x", "1.2") for name, target in names.items()]
    absent = Entry("plugin", "absent", "no_such_module", "noether-plugin-y", "0.3")
    yield Registry([*entries, absent], trusted=[__name__.partition(".")[0]])
    del sys.modules[MODULE]


def test_module_and_object_are_loaded_in_the_order_of_use(registry: Registry):
    participants = load_plugins(["object", "hello"], registry)
    assert [(p.id, p.is_plugin, p.distribution, p.version) for p in participants] == [
        ("object", True, "noether-plugin-x", "1.2"),
        ("hello", True, "noether-plugin-x", "1.2"),
    ]


def test_plugin_named_twice_is_loaded_once(registry: Registry):
    assert [p.id for p in load_plugins(["hello", "object", "HELLO"], registry)] == ["hello", "object"]


def test_dotted_path_of_a_registered_plugin_is_that_plugin(registry: Registry):
    assert [p.id for p in load_plugins([f"{MODULE}:instance"], registry)] == ["object"]


def test_plugin_that_is_not_named_is_not_imported(registry: Registry):
    assert load_plugins([], registry) == []


def test_unknown_plugin_names_the_nearest(registry: Registry):
    with pytest.raises(PluginError) as caught:
        load_plugins(["helo"], registry)
    assert caught.value.code == "unknown-kind"
    assert "Did you mean 'hello'" in str(caught.value)


def test_class_is_refused_as_plugin(registry: Registry):
    with pytest.raises(PluginError) as caught:
        load_plugins(["class"], registry)
    assert "plugin 'class'" in str(caught.value)
    assert "the class Plugin" in str(caught.value)


def test_plugin_without_a_hook_says_what_was_meant(registry: Registry):
    with pytest.raises(PluginError) as caught:
        load_plugins(["empty"], registry)
    assert "run_finish" in str(caught.value)
