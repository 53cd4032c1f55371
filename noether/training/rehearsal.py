"""Rehearsals of updates on the state of a run, which is put back; and the facts that a captured update bakes in."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from noether.core.models.recompute import restore
from noether.data.randomness import preserved_rng
from noether.metrics.device import Device
from noether.optim.model_optimizer import ModelOptimizer
from noether.training.another_form import UnfitError

Facts: TypeAlias = dict[str, Any]
_PLAIN = (bool, int, float, complex, str, type(None))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NOT_OWN = {"torch", __name__.partition(".")[0]}
_DEPTH = 3  # levels of lists and dicts in an attribute whose numbers are compared
_MOST = 64  # entries of a list or dict that are compared


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Return the name of the first entry that differs; None if all are equal."""
    if before == after:
        return None
    return next(name for name in {**before, **after} if before.get(name, before) != after.get(name, after))


def facts_of(models: Iterable[nn.Module], optimizers: Iterable[ModelOptimizer], owner: object) -> Facts:
    """Return the addresses, flags and numbers that a captured update has baked in, by a name for messages.

    Args:
        models: The model, and the module that wraps it.
        optimizers: Its optimizers; their learning rates are not baked in.
        owner: The object that the train step is a method of; None without one.
    """
    facts: Facts = {f"{type(owner).__name__}.{key}": _plain(value) for key, value in _attributes(owner)}
    for place, module in _named_modules(models):
        facts[place] = id(module)
        facts[f"the mode of {place}"] = module.training
        facts[f"the hooks of {place}"] = tuple(len(vars(module).get(hooks, ())) for hooks in _HOOKS)
        for key, parameter in module._parameters.items():
            facts[f"parameter '{key}' of {place}"] = parameter is not None and _placed(parameter)
        for key, buffer in module._buffers.items():
            facts[f"buffer '{key}' of {place}"] = buffer is not None and _placed(buffer)
        for key, value in _attributes(module):
            facts[f"attribute '{key}' of {place}"] = _plain(value)
    for optimizer in optimizers:
        kind, torch_optimizer = type(optimizer.torch_optimizer).__name__, optimizer.torch_optimizer
        facts[f"the optimizer {kind}"] = (id(torch_optimizer), id(torch_optimizer.state), len(optimizer.parameters))
        facts[f"the clipping of {kind}"] = (optimizer.clip_grad_norm, optimizer.clip_grad_value)
        for number, group in enumerate(torch_optimizer.param_groups, start=1):
            options = {key: _plain(value) for key, value in group.items() if key not in ("lr", "params")}
            facts[f"parameter group {number} of {kind}"] = (id(group), options)
    return facts


def addresses_of(optimizers: Iterable[ModelOptimizer]) -> Facts:
    """Return the addresses of the optimizers' state by a name for messages."""
    return {
        f"the state of the optimizer {type(optimizer.torch_optimizer).__name__}": [
            value.data_ptr()
            for state in optimizer.torch_optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        for optimizer in optimizers
    }


def host_generators(*, with_torch: bool) -> Facts:
    """Return the states of the generators of Python and numpy, and of torch's on the host."""
    facts: Facts = {"the generator of Python": random.getstate(), "the generator of numpy": repr(np.random.get_state())}
    if with_torch:
        facts["torch's generator on the CPU"] = torch.get_rng_state().tolist()
    return facts


def _attributes(owner: object) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a module or a trainer that its code may read; a tensor is memory, not a number."""
    for key, value in getattr(owner, "__dict__", {}).items():
        if key not in _OF_TORCH and not isinstance(value, Tensor):
            yield key, value


_OF_TORCH = frozenset(vars(nn.Module()))


def _plain(value: Any, depth: int = _DEPTH) -> Any:
    """Return a value that can be compared later: numbers and text as they are, other objects by identity."""
    if isinstance(value, _PLAIN):
        return repr(value) if value != value else value
    if isinstance(value, Tensor):
        return Tensor
    if depth and isinstance(value, list | tuple | set | frozenset | Mapping) and len(value) <= _MOST:
        items: Iterable[Any] = value.items() if isinstance(value, Mapping) else value
        return [_plain(item, depth - 1) for item in items]
    return id(value)


def _placed(tensor: Tensor) -> tuple[int, bool]:
    is_plain = tensor.layout is torch.strided and not nn.parameter.is_lazy(tensor)
    return tensor.data_ptr() if is_plain else id(tensor), tensor.requires_grad


def _named_modules(models: Iterable[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a model, and those that only its wrapper has, with their names in messages."""
    seen: set[nn.Module] = set()
    for model, root, end in zip(models, ("the model", "the wrapper"), ("", " of the wrapper"), strict=True):
        for name, module in model.named_modules(seen):
            yield (f"module '{name}'{end}" if name else root), module


@contextmanager
def unread(counter: object) -> Iterator[None]:
    """Refuse reads of the counter of a run: a replay would go on with the numbers that it was captured with.

    Raises:
        UnfitError: if the block reads it.
    """
    if counter is None:
        yield
        return
    kind = type(counter)
    counter.__class__ = type(kind.__name__, (kind,), {"__slots__": (), "__getattribute__": _refuse_read})
    try:
        yield
    finally:
        counter.__class__ = kind


def _refuse_read(counter: object, name: str) -> Any:
    if name.startswith("__"):
        return object.__getattribute__(counter, name)
    raise UnfitError(f"the train step reads '{name}' of the run's counter, which is not the same in a replay")


class Attributes:
    """Attributes of modules and trainers, to put back; with the contents of their lists, dicts, sets and generators.

    The globals of the files that define them, if they are not part of torch or of this package, belong to them.

    Args:
        owners: The objects; modules that they hold are taken as well.
    """

    def __init__(self, owners: Iterable[object]) -> None:
        self._holders: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._contents: list[tuple[Any, Any]] = []
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        given = [owner for owner in owners if owner is not None]
        held = [value for owner in given for value in vars(owner).values() if isinstance(value, nn.Module)]
        modules = [module for one in (*given, *held) if isinstance(one, nn.Module) for module in one.modules()]
        files = [sys.modules.get(type(one).__module__) for one in (*given, *modules)]
        own = [file for file in files if file is not None and file.__name__.partition(".")[0] not in _NOT_OWN]
        for attributes in {id(one): vars(one) for one in (*given, *modules, *own)}.values():
            self._holders.append((attributes, dict(attributes)))
            for value in attributes.values():
                if isinstance(value, list | dict | set):
                    self._contents.append((value, value.copy()))
                elif isinstance(value, torch.Generator):
                    self._generators.append((value, value.get_state()))

    def put_back(self) -> None:
        """Give all attributes the values that they had."""
        for holder, entries in self._holders:
            restore(holder, entries)
        for holder, content in self._contents:
            if isinstance(holder, dict):
                restore(holder, content)
            elif list(map(id, holder)) != list(map(id, content)):
                holder.clear()
                (holder.extend if isinstance(holder, list) else holder.update)(content)
        for generator, state in self._generators:
            generator.set_state(state)


class Snapshot:
    """The state that updates change, to put back: tensors, and the entries of the dicts that hold them.

    Args:
        models: The model, and the module that wraps it.
        optimizers: Its optimizers.
        scaler: The gradient scaler.
    """

    def __init__(
        self,
        models: Iterable[nn.Module],
        optimizers: Iterable[ModelOptimizer],
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self._holders: list[tuple[str, dict[Any, Any]]] = []
        for place, module in _named_modules(models):
            self._holders += [(place, held) for held in (module._parameters, module._buffers, vars(module))]
        self._optimizers = list(optimizers)
        for number, optimizer in enumerate(self._optimizers):
            self._holders.append((f"optimizer {number}", vars(optimizer)))
            for index, group in enumerate(optimizer.torch_optimizer.param_groups):
                self._holders.append((f"optimizer {number}, group {index}", group))
        if scaler is not None:
            self._holders += [("the scaler", vars(scaler)), ("its optimizers", scaler._per_optimizer_states)]
        self._entries = [dict(holder) for _, holder in self._holders]
        self._states = [dict(o.torch_optimizer.state) for o in self._optimizers]
        self._parts = [(part, dict(part)) for states in self._states for part in states.values()]
        self._values = [(tensor, tensor.detach().clone()) for _, tensor in self._tensors()]

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors as they are now, by name."""
        for place, holder in self._holders:
            yield from ((f"'{key}' of {place}", value) for key, value in holder.items() if isinstance(value, Tensor))
        for number, optimizer in enumerate(self._optimizers):
            names = {id(p): n for p, n in zip(optimizer.parameters, optimizer.names, strict=True)}
            for parameter, state in optimizer.torch_optimizer.state.items():
                for key, value in state.items():
                    if isinstance(value, Tensor):
                        yield f"{key} of '{names.get(id(parameter), '?')}' in optimizer {number}", value

    def values(self) -> dict[str, bytes]:
        """Return the bytes of all tensors as they are now, by name; waits for the device."""
        return {name: bits(tensor) for name, tensor in self._tensors()}

    @torch.no_grad()
    def put_back(self) -> None:
        """Give all tensors and dicts the values that they had."""
        for (_, holder), entries in zip(self._holders, self._entries, strict=True):
            restore(holder, entries)
        for optimizer, states in zip(self._optimizers, self._states, strict=True):
            restore(optimizer.torch_optimizer.state, states)
        for part, entries in self._parts:
            restore(part, entries)
        for tensor, value in self._values:
            tensor.copy_(value)


def bits(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor: equal for NaN, and not for a zero of another sign."""
    dense = tensor.detach().cpu().contiguous()
    return dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""


class Rehearsal:
    """Updates on the state of a run, which is put back after each trial; a trial is compared with the first one.

    Args:
        snapshot: The state of the run.
        device: The device that the updates run on.
        facts: Return what a captured update bakes in, as it is now.
        updates: Number of updates of a trial.
    """

    def __init__(self, snapshot: Snapshot, device: Device, facts: Callable[[], Facts], updates: int) -> None:
        self._snapshot = snapshot
        self._device = device
        self._facts = facts
        self._updates = updates
        self._first: dict[str, bytes] | None = None

    def require_same(self, update: Callable[[int], list[Tensor]], otherwise: str) -> None:
        """Do a trial, and compare all that it leaves with the first one; the first one only has to suit a graph.

        Args:
            update: Does the update of this number, and returns losses, outputs and the like.
            otherwise: Begin of the message if it leaves something else.

        Raises:
            UnfitError: if it does, or if Python's part of an update would be missing in a replay.
        """
        with preserved_rng():
            try:
                found = self._trial(update)
            finally:
                self._snapshot.put_back()
        if self._first is None:
            self._first = found
        if (name := difference(self._first, found)) is not None:
            raise UnfitError(f"{otherwise}: {name}")

    def _trial(self, update: Callable[[int], list[Tensor]]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        before, facts = host_generators(with_torch=self._device.name != "cpu"), None
        for number in range(self._updates):
            for place, tensor in enumerate(update(number)):
                found[f"loss or output {place} of update {number + 1}"] = bits(tensor)
            facts = facts or self._facts()  # after the first update, which may set things up
        for name, now in (
            (difference(before, host_generators(with_torch=self._device.name != "cpu")), "is drawn from"),
            (difference(facts or {}, self._facts()), "changes"),
        ):
            if name is not None:
                raise UnfitError(f"{name} {now} in an update, which a replay would not repeat")
        return found | self._snapshot.values() | {"the generator of the device": bits(self._device.generator_state())}
