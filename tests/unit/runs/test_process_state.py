"""A run sets the state of the process and restores it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from noether.errors import SpecError
from noether.runs.process_state import device_of, process_state
from noether.spec.load import load_spec

CPU = torch.device("cpu")


@pytest.fixture
def deterministic_mode() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic_mode")
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_deterministic_mode_that_only_warns_does_so_again(tiny_spec: dict[str, Any], deterministic: bool) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    with process_state(load_spec({**tiny_spec, "deterministic": deterministic}).spec, CPU):
        assert torch.is_deterministic_algorithms_warn_only_enabled() is not deterministic
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_an_unchanged_mode_is_left_alone(tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("torch imports its compiler")

    monkeypatch.setattr(torch, "use_deterministic_algorithms", refuse)
    with pytest.raises(KeyboardInterrupt), process_state(load_spec(tiny_spec).spec, CPU):
        raise KeyboardInterrupt


def test_a_run_on_the_cpu_leaves_cuda_alone(tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("CUDA is touched")

    for name in ("init", "_lazy_init", "manual_seed_all", "get_rng_state_all", "is_available"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    with process_state(load_spec({**tiny_spec, "device": "cpu"}).spec, device_of("cpu")):
        first = torch.rand(3)
    with process_state(load_spec({**tiny_spec, "device": "cpu"}).spec, device_of("cpu")):
        assert torch.equal(torch.rand(3), first)


def test_a_missing_device_is_reported_with_the_available_ones() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    with pytest.raises(SpecError) as caught:
        device_of("cuda:1")
    assert "cuda:1" in str(caught.value)
    assert "cpu" in str(caught.value)
