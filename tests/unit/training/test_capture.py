"""State captured for a checkpoint, and the generators of the process, saved and restored."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from noether.core.models.build import AdaptedModule
from noether.core.models.composite import CompositeModel
from noether.data.randomness import preserved_rng
from noether.testing import make_model, make_trainer
from noether.training.capture import ModelState, capture_rng, restore_rng


def draws() -> tuple[float, ...]:
    return (
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),  # numpy and Python make two normal numbers at a time and keep one
        float(torch.rand(())),
        float(torch.randn(())),
    )


def test_generators_go_on_from_where_they_were_captured() -> None:
    with preserved_rng():
        draws()
        state = json.loads(json.dumps(capture_rng()))
        expected = [draws() for _ in range(3)]
        restore_rng(state)
        assert [draws() for _ in range(3)] == expected


def test_what_does_not_train_has_the_names_of_the_checkpoint_tied_ones_all_of_theirs(tmp_path: Path) -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
            self.other.weight = self.one.weight

    model = CompositeModel(parts={"encoder": AdaptedModule(Twice()), "decoder": make_model()})
    model.get_submodule("encoder").requires_grad_(False)
    state = make_trainer(tmp_path).capture_state(model)
    assert set(state.frozen) == {name for name in state.model if name.startswith("encoder.")}
    assert {"encoder.one.weight", "encoder.other.weight"} <= set(state.frozen)


class Net(torch.nn.Module):
    """Two linear maps, one of them under two names, with buffers that are saved, not saved and not there."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)
        self.again = self.one
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.register_buffer("none", None)


class WithExtra(torch.nn.Linear):
    def get_extra_state(self) -> torch.Tensor:
        return torch.ones(1)

    def set_extra_state(self, state: torch.Tensor) -> None: ...


def added_hook(net: Net) -> None:
    def hook(module: torch.nn.Module, state: dict[str, torch.Tensor], prefix: str, _: object) -> None:
        state[f"{prefix}hooked"] = torch.ones(1)

    net.norm._register_state_dict_hook(hook)


def renamed(net: Net) -> None:
    net.other = net._modules.pop("one")


def own_state(net: Net) -> None:
    net.state_dict = lambda *args, **kwargs: {"own": torch.ones(1)}  # type: ignore[method-assign]  # as some libraries do


CHANGES: dict[str, Callable[[Net], object]] = {
    "nothing": lambda net: None,
    "a new layer": lambda net: net.add_module("late", torch.nn.Linear(2, 2)),
    "another layer": lambda net: setattr(net, "norm", torch.nn.LayerNorm(3)),
    "another layer of the same kind": lambda net: setattr(net, "norm", torch.nn.BatchNorm1d(3)),
    "a layer less": lambda net: delattr(net, "norm"),
    "another name of a layer": renamed,
    "another name of a parameter": lambda net: net.one._parameters.update(b=net.one._parameters.pop("bias")),
    "a new parameter": lambda net: net.norm.register_parameter("late", torch.nn.Parameter(torch.ones(1))),
    "another parameter": lambda net: setattr(net.one, "weight", torch.nn.Parameter(torch.ones(5, 3))),
    "a parameter less": lambda net: setattr(net.one, "bias", None),
    "another buffer": lambda net: setattr(net, "seen", torch.ones(4)),
    "a buffer that was None": lambda net: setattr(net, "none", torch.ones(4)),
    "a buffer that is saved from now on": lambda net: net._non_persistent_buffers_set.clear(),
    "a layer with a state of its own": lambda net: setattr(net, "norm", WithExtra(3, 3)),
    "a class with a state of its own": lambda net: setattr(net.one, "__class__", WithExtra),
    "a state of its own": own_state,
    "a hook": added_hook,
    "a compiled layer": lambda net: setattr(net, "norm", torch.jit.script(torch.nn.Linear(3, 2))),
    "the first one frozen": lambda net: net.one.requires_grad_(False),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("is_adapted", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_names_that_are_kept_give_the_state_dict_after_a_change(
    change: Callable[[Net], object], is_adapted: bool
) -> None:
    net, weights = Net(), ModelState()
    model = CompositeModel(parts={"net": AdaptedModule(net), "mlp": make_model()}) if is_adapted else net
    weights.of(model)
    change(net)
    for _ in range(2):
        (state, frozen), wanted = weights.of(model), model.state_dict(keep_vars=True)
        assert list(state) == list(wanted)
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)
        assert frozen == {
            name for name, p in wanted.items() if isinstance(p, torch.nn.Parameter) and not p.requires_grad
        }


def test_a_state_is_found_again_without_a_line_of_python_for_each_module() -> None:
    def calls(layers: int) -> int:
        model, weights, functions = make_model(hidden=[2] * layers), ModelState(), []
        weights.of(model)
        before = sys.getprofile()
        sys.setprofile(lambda frame, event, _: functions.append(frame.f_code.co_name) if event == "call" else None)
        try:
            weights.of(model)
        finally:
            sys.setprofile(before)
        return len(functions)

    assert calls(40) == calls(4)


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_does_not_initialise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialises() -> None:
        raise AssertionError("asking for these states initialises CUDA")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", initialises)
    state = capture_rng()
    assert "cuda" not in state
    restore_rng(state)
