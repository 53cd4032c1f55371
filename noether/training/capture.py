"""Capture of a run at a boundary: model, optimizers, trainer, callbacks and random generators for a checkpoint."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any
from weakref import WeakSet
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from noether.checkpoint.state import CheckpointState
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.tree import as_participant, family
from noether.core.models.agreement import evaluation_weights
from noether.core.models.base import ModelBase
from noether.core.models.build import AdaptedModule
from noether.errors import TrainingError
from noether.kernel.participant import note
from noether.optim.kernels import is_sharded
from noether.training.forms import form_state
from noether.training.state import TrainerParts

_LOG = logging.getLogger("noether.checkpoint")
_MT19937 = 624  # numbers in the state of this generator
_WARNED_OF: WeakSet[CallbackBase | nn.Module] = WeakSet()


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


def capture_trainer(
    trainer: TrainerParts, model: ModelBase, state: Mapping[str, Any], weights: ModelState
) -> CheckpointState:
    """Return everything that a checkpoint of a trainer holds.

    Args:
        trainer: The trainer.
        model: The unwrapped model, with its optimizers.
        state: The trainer's `state_dict`, which a subclass may have extended.
        weights: Keeps the names of the model's state between two captures.
    """
    counter, pending = trainer.state.counter, trainer.state.pending_round
    captured = {name: optimizer.capture(f"{name}/") for name, optimizer in model.optimizers().items()}
    files = files_of(family(trainer.callbacks))
    held, frozen = weights.of(model)
    return CheckpointState(
        epoch=counter.epoch,
        update=counter.update,
        sample=counter.sample,
        model=_evaluated(model) or held,
        optimizer_tensors=dict(chain.from_iterable(tensors.items() for tensors, _ in captured.values())),
        optimizer_values={name: values for name, (_, values) in captured.items()},
        trainer={key: value for key, value in state.items() if key != "callbacks"},
        callbacks=state["callbacks"],
        data=trainer.data_container.state_dict(),
        ranks=_generators(trainer, model, state["callbacks"]),
        frozen=frozen,
        callback_files=files if pending is None else {**files, **pending.files},
        logs=trainer.log_writer.written(),
    )


def _evaluated(model: ModelBase) -> Mapping[str, Tensor] | None:
    """Return copies of the weights to evaluate if the parameters hold others while they are trained."""
    if not any(optimizer.is_training for optimizer in model.optimizers().values()):
        return None
    with evaluation_weights(model):
        return deepcopy(model.state_dict())  # tied tensors stay tied


def _generators(trainer: TrainerParts, model: ModelBase, states: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the random generators of all ranks; compare the ranks' weights, buffers and states of callbacks.

    Raises:
        TrainingError: if a rank has other weights than rank 0: something has changed them on one rank alone.
    """
    if trainer.parallel.world == 1:
        return [capture_rng()]
    marks = {identifier: _mark(state) for identifier, state in states.items()}
    buffers = {name: _mark(buffer) for name, buffer in model.named_buffers()}
    found = trainer.parallel.gather((capture_rng(), _mark(list(model.parameters())), buffers, marks))
    others = [str(rank) for rank, (_, mark, *_) in enumerate(found) if mark != found[0][1]]
    if others:
        raise TrainingError(
            f"the ranks have different weights at update {trainer.state.counter.update}: found others than those of "
            f"rank 0 on rank {', '.join(others)}",
            hint="change the model on all ranks alike, and let `BaseTrainer.update` apply the gradients",
        )
    _warn_of_other_buffers(model, [buffers for _, _, buffers, _ in found])
    _warn_of_other_states(trainer.callbacks, [marks for *_, marks in found])
    return [generators for generators, *_ in found]


def _warn_of_other_buffers(model: ModelBase, marks: Sequence[Mapping[str, int]]) -> None:
    """Warn once of buffers that are not the same on all ranks, as running means of a rank's own samples are."""
    others = sorted({name for of_rank in marks for name, mark in of_rank.items() if mark != marks[0].get(name)})
    if others and model not in _WARNED_OF:
        _WARNED_OF.add(model)
        _LOG.warning(
            "the ranks have different buffers of the model: %s; checkpoints hold those of rank 0; help: in training, "
            "update a buffer from numbers of all ranks, as batch norms do",
            ", ".join(others),
        )


def _warn_of_other_states(callbacks: Sequence[CallbackBase], marks: Sequence[Mapping[str, int]]) -> None:
    """Warn once of each callback whose state is not the same on all ranks: a resumed run would go on with another."""
    for callback in family(callbacks):
        found = [of_rank.get(callback.id) for of_rank in marks]
        others = [str(rank) for rank, mark in enumerate(found) if mark != found[0]]
        if others and callback not in _WARNED_OF:
            _WARNED_OF.add(callback)
            _LOG.warning(
                "callback '%s' has other states on the ranks: found another one on rank %s than on rank 0, whose state "
                "a resumed run gives to all; help: keep in the state what `trainer.parallel.gather` returns",
                callback.id,
                ", ".join(others),
            )


def _mark(value: Any, mark: int = 0) -> int:
    """Return a checksum of nested values, except of tensors that are divided among the ranks."""
    if isinstance(value, Tensor):
        return mark if is_sharded(value) else crc32(_bytes(value), mark)
    if isinstance(value, Mapping):
        return _mark([part for item in value.items() for part in item], mark)
    if isinstance(value, list | tuple):
        for item in value:
            mark = _mark(item, mark)
        return mark
    return crc32(repr(value).encode(), mark)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


class ModelState:
    """The `state_dict` of a model with its parameters themselves, by names that are put together once.

    They are put together again if a module, a parameter or a buffer comes, goes, or gets another name. A model with a
    module that saves its state in its own way, or by hooks, is asked for its `state_dict` each time.
    """

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._structure: tuple[list[Any], ...] = ()
        self._names: list[str | None] = []
        self._is_own = False

    def of(self, model: nn.Module) -> tuple[Mapping[str, Any], frozenset[str]]:
        """Return the state of a model by name, and the names of the parameters that do not train."""
        tensors = self._held(model)
        state = model.state_dict(keep_vars=True) if tensors is None else tensors
        still = [name for name, value in state.items() if isinstance(value, nn.Parameter) and not value.requires_grad]
        if tensors is None and not any(map(is_sharded, state.values())):
            state = model.state_dict()
        return state, frozenset(still)  # a sharded state has the parameters themselves, which tell that they are tied

    def _held(self, model: nn.Module) -> dict[str, Any] | None:
        """Return the tensors of modules that leave their state to torch; None if one does not."""
        modules = self._modules
        if not modules or modules[0] is not model or self._structure != _structure_of(modules):
            found = list(_named_modules(model, ""))
            self._modules = modules = [module for _, module in found]
            if not all(isinstance(table, dict) for module in modules for table in _tables(module)):
                self._modules = []  # a compiled module of TorchScript has tables of its own
                return None
            self._structure = _structure_of(modules)
            self._names = [name for prefix, module in found for name in _state_names(prefix, module)]
            kinds = set(map(type, modules))
            self._is_own = True in self._structure[-1] or not all(map(_leaves_its_state_to_torch, kinds))
        if self._is_own or any(chain.from_iterable(map(_hooks, modules))):
            return None
        tensors = chain.from_iterable(_values(chain.from_iterable(map(_held_by, modules))))
        return {name: tensor for name, tensor in zip(self._names, tensors, strict=True) if name is not None}


_values = partial(map, dict.values)
_held_by = attrgetter("_parameters", "_buffers")
_tables = attrgetter("_modules", "_parameters", "_buffers")
_hooks = attrgetter("_state_dict_hooks", "_state_dict_pre_hooks")
_unsaved = attrgetter("_non_persistent_buffers_set")


def _structure_of(modules: list[nn.Module]) -> tuple[list[Any], ...]:
    """Return all that the names of a state depend on, to be compared; without a line of Python for each module."""
    tables = list(chain.from_iterable(map(_tables, modules)))
    return (
        list(map(type, modules)),
        list(map(len, tables)),
        list(chain.from_iterable(tables)),
        list(map(type, chain.from_iterable(_values(tables)))),
        list(chain.from_iterable(_values(tables[::3]))),
        list(map(frozenset, filter(None, map(_unsaved, modules)))),
        ["state_dict" in own or "_save_to_state_dict" in own or "get_extra_state" in own for own in map(vars, modules)],
    )


def _named_modules(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield modules in the order of their state, each with the begin of its names; one with two names comes twice."""
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _named_modules(child, prefix if isinstance(module, AdaptedModule) else f"{prefix}{name}.")


def _state_names(prefix: str, module: nn.Module) -> Iterator[str | None]:
    """Yield the names of parameters and buffers; None for those that are None or not saved."""
    for held in _held_by(module):
        for name, value in held.items():
            is_saved = value is not None and (
                held is module._parameters or name not in module._non_persistent_buffers_set
            )
            yield prefix + name if is_saved else None


def _leaves_its_state_to_torch(kind: type[nn.Module]) -> bool:
    return (
        (kind.state_dict is nn.Module.state_dict or kind is AdaptedModule)
        and kind._save_to_state_dict is nn.Module._save_to_state_dict
        and kind.get_extra_state is nn.Module.get_extra_state
    )


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
        note(error, f"raised by {as_participant(callback).description} in {method}{place}")
        raise
