"""Capture of a run at a boundary: model, optimizers, trainer, callbacks and random generators for a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noether.checkpoint.state import CheckpointState
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.tree import family
from noether.core.models.agreement import evaluation_weights
from noether.core.models.base import ModelBase
from noether.kernel.stops import note
from noether.training.forms import form_state
from noether.training.state import TrainerParts

_MT19937 = 624  # numbers in the state of this generator


def trainer_state(trainer: TrainerParts) -> dict[str, Any]:
    """Return progress, scaler, position in the metrics, and the callbacks' states by id."""
    guard, scaler, pending = trainer.one_update.guard, trainer.precision.scaler, trainer.state.pending_round
    guard.read()
    return {
        **trainer.state.state_dict(),
        "skipped_in_a_row": guard.in_a_row,
        "form": form_state(trainer),
        "grad_scaler": scaler.state_dict() if scaler else None,
        "log_writer": trainer.log_writer.state_dict(),
        "callbacks": states_of(trainer.callbacks) if pending is None else pending.states,
    }


def capture_trainer(trainer: TrainerParts, model: ModelBase, state: Mapping[str, Any]) -> CheckpointState:
    """Return everything that a checkpoint of a trainer holds.

    Args:
        trainer: The trainer.
        model: The unwrapped model, with its optimizers.
        state: The trainer's `state_dict`, which a subclass may have extended.
    """
    counter, pending, optimizers = trainer.state.counter, trainer.state.pending_round, model.optimizers()
    tensors = {
        f"{name}/{key}": tensor
        for name, optimizer in optimizers.items()
        for key, tensor in optimizer.state_tensors().items()
    }
    files = files_of(family(trainer.callbacks))
    return CheckpointState(
        epoch=counter.epoch,
        update=counter.update,
        sample=counter.sample,
        model=_weights(model),
        optimizer_tensors=tensors,
        optimizer_values={name: optimizer.state_values() for name, optimizer in optimizers.items()},
        trainer={key: value for key, value in state.items() if key != "callbacks"},
        callbacks=state["callbacks"],
        data=trainer.data_container.state_dict(),
        rank=capture_rng(),
        frozen=_frozen(model),
        callback_files=files if pending is None else {**files, **pending.files},
        logs=trainer.log_writer.written(),
    )


def _weights(model: ModelBase) -> Mapping[str, Tensor]:
    """Return the weights to evaluate: copies, if the parameters hold others while they are trained."""
    if not any(optimizer.is_training for optimizer in model.optimizers().values()):
        return model.state_dict()
    with evaluation_weights(model):
        return deepcopy(model.state_dict())  # tied tensors stay tied


def _frozen(model: ModelBase) -> frozenset[str]:
    """Return the parameters that do not train, under all names that the model's `state_dict` has for them."""
    state = model.state_dict(keep_vars=True).items()
    return frozenset(name for name, value in state if isinstance(value, nn.Parameter) and not value.requires_grad)


def capture_rng() -> dict[str, Any]:
    """Return the global generators of this process, in a form that JSON holds; `restore_rng` takes it back."""
    version, numbers, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, cached = legacy
    state: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped; asking for their state would initialise CUDA in a run that does not use it
        state["cuda"] = [generator.numpy().tobytes().hex() for generator in torch.cuda.get_rng_state_all()]
    return state


def restore_rng(state: Mapping[str, Any]) -> None:
    """Restore the global generators of this process, and those of the devices that it has, from `capture_rng`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    if len(keys) != _MT19937 or not 0 <= position <= _MT19937:  # numpy reads beyond the end of its keys otherwise
        raise ValueError(
            f"not a state of numpy's generator: found {len(keys)} numbers and position {position}, "
            f"expected {_MT19937} numbers"
        )
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_generator_state(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        for device, text in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(_generator_state(text), device)


def _generator_state(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def states_of(callbacks: Sequence[CallbackBase]) -> dict[str, Any]:
    """Return the `state_dict`s of callbacks, nested ones too, by id; callbacks without one are left out."""
    states = {}
    for callback in family(callbacks):
        with named(callback, "state_dict"):
            if (state := callback.state_dict()) is not None:
                states[callback.id] = state
    return states


def files_of(callbacks: Iterable[CallbackBase]) -> dict[str, Mapping[str, Mapping[str, Tensor]]]:
    """Return the `state_files` of exactly these callbacks by id; callbacks without one are left out."""
    found = {}
    for callback in callbacks:
        with named(callback, "state_files"):
            if files := callback.state_files():
                found[callback.id] = files
    return found


@contextmanager
def named(callback: CallbackBase, method: str) -> Iterator[None]:
    """Note on an error that a callback raised it in a method that is not a hook; hooks have notes of their own."""
    try:
        yield
    except BaseException as error:
        # A callback that is built by hand may have no trainer.
        counter = getattr(getattr(callback, "trainer", None), "update_counter", None)
        place = f" at update {counter.update}" if counter is not None else ""
        note(error, f"raised by callback '{callback.id}' in {method}{place}")
        raise
