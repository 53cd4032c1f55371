"""Preparation of a run: plugins must return a valid spec, lazy modules get their sizes."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

import noether
from noether.kernel.participant import Participant
from noether.runs import prepare
from noether.runs.prepare import preparation, rehearsal
from noether.spec.errors.problem import InvalidSpecError
from noether.spec.load import load_spec

# Run plugins


def plugin(name: str, monkeypatch: pytest.MonkeyPatch, configure: Callable[[Any], object]) -> Participant:
    module = types.ModuleType(name)

    @noether.hookimpl
    def configure_spec(spec: Any) -> None:
        configure(spec)

    module.configure_spec = configure_spec  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    return Participant(name, name, module, is_plugin=True)


def configured_by(tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *changes: Callable[[Any], object]) -> Any:
    """Return the spec as run plugins `one`, `two`, … configure it."""
    names = ("one", "two", "three")
    plugins = [plugin(name, monkeypatch, change) for name, change in zip(names, changes, strict=False)]
    monkeypatch.setattr(prepare, "load_plugins", lambda _: plugins)
    with preparation(load_spec(tiny_spec)) as prepared:
        return prepared.loaded.spec


def set_epochs(value: Any) -> Callable[[Any], object]:
    return lambda spec: setattr(spec.trainer, "max_epochs", value)


def test_a_plugin_may_change_the_spec_and_not_the_one_that_was_loaded(
    tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_spec(tiny_spec)
    before = loaded.spec.model_copy(deep=True)
    monkeypatch.setattr(prepare, "load_plugins", lambda _: [plugin("one", monkeypatch, set_epochs(7))])
    with preparation(loaded) as prepared:
        assert prepared.loaded.spec.trainer.max_epochs == 7
    assert loaded.spec == before


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (set_epochs("many"), ("trainer", "max_epochs")),
        (set_epochs(-1), ("trainer", "max_epochs")),
        (lambda spec: setattr(spec, "seed", -1), ("seed",)),
        (lambda spec: spec.trainer.forward_properties.append(3), ("trainer", "forward_properties", 1)),
        (lambda spec: setattr(spec, "trackers", [{"kind": "noop"}]), ("trackers", 0)),
        (lambda spec: setattr(spec, "trackers", [{"kind": "nope"}]), ("trackers", 0, "kind")),
        (lambda spec: setattr(spec, "seed", None), ("seed",)),
        (lambda spec: setattr(spec.trainer, "precision", None), ("trainer", "precision")),
        (lambda spec: setattr(spec, "plugins", None), ("plugins",)),
    ],
)
def test_a_plugin_that_breaks_the_spec_is_named_with_the_place(
    tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], object], place: tuple[Any, ...]
) -> None:
    with pytest.raises(InvalidSpecError) as raised:
        configured_by(tiny_spec, monkeypatch, change)
    assert [problem.path for problem in raised.value.problems] == [place]
    assert "run plugin 'one'" in raised.value.origin


def test_a_plugin_may_add_a_callback_and_leave_out_what_has_a_default(
    tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"kind": "checkpoint", "every_n_epochs": 1}

    def add(spec: Any) -> None:
        spec.trainer = type(spec.trainer).model_validate({**tiny_spec["trainer"], "callbacks": [table, table]})
        spec.matmul_precision = None

    spec = configured_by(tiny_spec, monkeypatch, add)
    assert [(callback.kind, callback.id) for callback in spec.trainer.callbacks] == [("checkpoint", None)] * 2


def test_a_value_that_a_spec_cannot_hold_is_reported(
    tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSpecError) as raised:
        configured_by(tiny_spec, monkeypatch, set_epochs(object()))
    assert "run plugin 'one'" in raised.value.origin


def test_of_several_plugins_the_first_that_breaks_the_spec_is_named(
    tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSpecError) as raised:
        configured_by(tiny_spec, monkeypatch, set_epochs(2), lambda spec: setattr(spec, "seed", -1), lambda spec: None)
    assert "run plugin 'two'" in raised.value.origin


def test_a_plugin_that_cannot_be_called_again_does_not_hide_the_problems(
    tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def once(spec: Any) -> None:
        calls.append(spec)
        if len(calls) > 1:
            raise RuntimeError("called again")

    with pytest.raises(InvalidSpecError) as raised:
        configured_by(tiny_spec, monkeypatch, once, set_epochs(-1))
    assert [problem.path for problem in raised.value.problems] == [("trainer", "max_epochs")]


# Lazy modules


def test_lazy_modules_take_their_sizes_from_a_sample_before_anything_needs_them(tiny_spec: dict[str, Any]) -> None:
    tiny_spec["trainer"] |= {"forward_properties": ["x"]}
    tiny_spec["model"] = {
        "kind": "torch.nn.LazyLinear",
        "out_features": 2,
        "optimizer": {"kind": "AdamW", "lr": 0.01},
    }
    with rehearsal(load_spec(tiny_spec)) as run:
        shapes = {name: tuple(parameter.shape) for name, parameter in run.model.named_parameters()}
        assert all(module.training for module in run.model.modules())
        assert len(run.model.optimizers()["model"].parameters) == 2
    assert shapes == {"weight": (2, 3), "bias": (2,)}
