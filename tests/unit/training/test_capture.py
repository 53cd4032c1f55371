"""State captured for a checkpoint, and the generators of the process, saved and restored."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from noether.core.models.build import AdaptedModule
from noether.core.models.composite import CompositeModel
from noether.data.randomness import preserved_rng
from noether.testing import make_model, make_trainer
from noether.training.capture import capture_rng, restore_rng


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


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_does_not_initialise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialises() -> None:
        raise AssertionError("asking for these states initialises CUDA")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", initialises)
    state = capture_rng()
    assert "cuda" not in state
    restore_rng(state)
