"""The wording of the errors of kinds, hooks and intervals, in one place; other tests look at types and facts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import noether
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.entries import Entry
from noether.kernel.participant import Participant, load_plugins
from noether.kernel.progress import Intervals, TrainingIteration, UpdateCounter
from noether.kernel.registry import Registry

TORCH, OTHER = ("noether-train", "0.1.0"), ("noether-plugin-x", "1.2")
REGISTRY = Registry(
    [
        Entry("optimizer", "AdamW", "torch.optim:AdamW", *TORCH),
        Entry("loss", "l1", "torch.nn.functional:l1_loss", *TORCH),
        Entry("optimizer", "fast", "torch.optim:Adam", *OTHER),
        Entry("optimizer", "fast", "torch.optim:Adamax", "noether-plugin-y", "0.3"),
        Entry("optimizer", "broken", "missing_package:Broken", *OTHER),
        Entry("loss", "wrong", "torch.nn:Linear", *OTHER),
        Entry("plugin", "class", "torch.nn:Linear", *OTHER),
        Entry("plugin", "empty", "json", *OTHER),
    ]
)
START = TrainingIteration(0, 0, 0)


def test_messages(golden: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noether.kernel.discovery.place_of", lambda _: " (plugin.py:7)")
    golden({**of_kinds(), **of_hooks(), **of_intervals()})


def of_kinds() -> dict[str, Any]:
    def load(role: str, kind: str) -> Any:
        return lambda: REGISTRY.load(role, kind)

    return {
        "an unknown kind": load("optimizer", "AdmW"),
        "an unknown kind of a plugin": load("optimizer", "x/fats"),
        "a plugin that is not installed": load("optimizer", "z/fast"),
        "a kind of another role": load("loss", "AdamW"),
        "a kind that two plugins claim": load("optimizer", "fast"),
        "a plugin that cannot be imported": load("optimizer", "broken"),
        "a class as a loss": load("loss", "wrong"),
        "a function with other arguments": load("loss", "torch.nn.functional.relu"),
        "a malformed path": load("loss", "torch..nn"),
        "a path below a function": load("loss", "torch.nn.functional.l1_loss.call"),
        "an unknown attribute": load("loss", "torch.nn.functional.l1_los"),
        "a module of Python": load("loss", "os.system"),
        "a module that torch imports": load("loss", "torch.hub.os.system"),
        "a package that is not trusted": load("loss", "pluggy.PluginManager"),
        "a path without a role": lambda: REGISTRY.roles_of("torch.nn.functional.F"),
        "a class as a run plugin": lambda: load_plugins(["class"], REGISTRY),
        "a run plugin without hooks": lambda: load_plugins(["empty"], REGISTRY),
    }


def of_hooks() -> dict[str, Any]:
    def plugin(**options: Any) -> Any:
        def decorate(function: Any) -> Any:
            module = SimpleNamespace(**{function.__name__: noether.hookimpl(**options)(function)})
            return lambda: compile_dispatch([Participant("x", "x", module, is_plugin=True)])

        return decorate

    @plugin()
    def after_trainning() -> None: ...

    @plugin()
    def before_training(counter: Any) -> None: ...

    @plugin(wrapper=True)
    def after_training() -> None: ...

    @plugin()
    def periodic_callback() -> None: ...

    @plugin()
    def run_finished() -> Any:
        yield

    class Callback:
        @property
        def before_training(self) -> None: ...

        def after_trainning(self) -> None: ...

        @noether.every(epochs=1)
        def periodic_callback(self) -> None: ...

    callback = Participant("c", "c", Callback())
    return {
        "a hook that does not exist": after_trainning,
        "an argument that a hook lacks": before_training,
        "a wrapper without yield": after_training,
        "a run plugin without an interval": periodic_callback,
        "a generator": run_finished,
        "a callback with three problems": lambda: compile_dispatch([callback]),
        "two participants with one id": lambda: compile_dispatch([Participant("a", "a", object())] * 2),
    }


def of_intervals() -> dict[str, Any]:
    return {
        "no interval in @noether.every": lambda: noether.every(),
        "a wrong interval in @noether.every": lambda: noether.every(updates=0),
        "no interval": lambda: Intervals().updates_per_interval(5, 4),
        "an uneven interval": lambda: Intervals(every_n_samples=6).updates_per_interval(5, 4),
        "no end": lambda: UpdateCounter(START, TrainingIteration(), 5, 4),
        "a text that is not an iteration": lambda: TrainingIteration.parse("latest"),
    }
