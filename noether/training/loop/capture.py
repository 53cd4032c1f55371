"""The state of a run at a boundary, as its parts hand it over for a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from noether.checkpoint.state import CheckpointState
from noether.core.models.base import ModelBase
from noether.core.utils.training.counter import UpdateCounter

_MT19937 = 624  # numbers in the state of this generator


def capture_step(
    model: ModelBase,
    counter: UpdateCounter,
    trainer_state: Mapping[str, Any],
    data_state: Mapping[str, Tensor],
    callback_files: Mapping[str, Mapping[str, Mapping[str, Tensor]]],
) -> CheckpointState:
    """Return everything that a checkpoint holds, taken at one moment.

    Args:
        model: The unwrapped model, with its optimizers.
        counter: Where the run stands.
        trainer_state: The trainer's `state_dict`, the states of its callbacks under `callbacks`.
        data_state: What the transforms learnt from the training set.
        callback_files: What callbacks keep in files of their own, by id.
    """
    optimizers = model.optimizers()
    tensors = {
        f"{name}/{key}": tensor
        for name, optimizer in optimizers.items()
        for key, tensor in optimizer.state_tensors().items()
    }
    return CheckpointState(
        epoch=counter.epoch,
        update=counter.update,
        sample=counter.sample,
        model=model.state_dict(),
        optimizer_tensors=tensors,
        optimizer_values={name: optimizer.state_values() for name, optimizer in optimizers.items()},
        trainer={key: value for key, value in trainer_state.items() if key != "callbacks"},
        callbacks=trainer_state["callbacks"],
        data=data_state,
        rank=capture_rng(),
        frozen=_frozen(model),
        callback_files=callback_files,
    )


def _frozen(model: ModelBase) -> frozenset[str]:
    """Return the parameters that do not train, under all names that the model's `state_dict` has for them."""
    state = model.state_dict(keep_vars=True).items()
    return frozenset(name for name, value in state if isinstance(value, nn.Parameter) and not value.requires_grad)


def capture_rng() -> dict[str, Any]:
    """Return the global generators of this process, in a form that JSON holds; `restore_rng` takes it back."""
    import numpy as np

    version, numbers, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, cached = legacy
    state: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = [generator.numpy().tobytes().hex() for generator in torch.cuda.get_rng_state_all()]
    return state


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put the global generators of this process where `capture_rng` found them; those of devices that it has."""
    import numpy as np

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    if len(keys) != _MT19937 or not 0 <= position <= _MT19937:  # numpy would read beyond the end of its keys
        raise ValueError(f"no state of a generator: {len(keys)} numbers, position {position}")
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_generator_state(state["torch"]))
    if torch.cuda.is_available():
        for device, text in zip(range(torch.cuda.device_count()), state.get("cuda", ()), strict=False):
            torch.cuda.set_rng_state(_generator_state(text), device)


def _generator_state(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
