"""Activation checkpointing: modules that run their forward pass again in the backward pass, and keep no activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.checkpoint import checkpoint

from noether.data.randomness import preserved_rng, rng_snapshot
from noether.errors import TrainingError

_SMALL = 1 << 16  # bytes of a buffer that is copied at every forward pass, whether it changes or not
_LEAVE_OUT = "leave it out of `checkpoint` under [model]"


def recompute(module: nn.Module, name: str) -> None:
    """Let a module run its forward pass again in the backward pass, from now on.

    The attribute `forward` of the module itself is set: names of parameters stay, hooks on the module are called as
    before, and a copy of the module recomputes its own forward pass.

    Args:
        module: The module.
        name: Its name in messages.
    """
    vars(module)["forward"] = Recomputed(module, name)  # a model may have a `__setattr__` of its own


def keep_activations(model: nn.Module) -> None:
    """Undo `recompute` for all modules of a model."""
    for module in model.modules():
        if isinstance(own := vars(module).get("forward"), Recomputed):
            del vars(module)["forward"]
            if own.inner is not None:
                vars(module)["forward"] = own.inner


def recomputed(model: nn.Module) -> list[str]:
    """Return the names of the modules of a model that are recomputed."""
    found = (vars(module).get("forward") for module in model.modules())
    return [own.name for own in found if isinstance(own, Recomputed)]


class Recomputed:
    """The forward pass of a module, which runs again in the backward pass.

    It does so in training mode where gradients are enabled. The second run leaves no trace and equals the first one bit
    for bit: it begins with the generators, buffers, parameters and attributes that the first one began with, and
    everything is put back after it.

    Args:
        module: The module.
        name: Its name in messages.

    Attributes:
        inner: A `forward` that the module had as an attribute before; None if it has that of its class.
        draws: True if a forward pass has drawn from the generator of a CUDA device; None before the first one.
    """

    def __new__(cls, *_: Any) -> Recomputed:
        """Make an object, also of a copy; from then on, `torch.compile` compiles what a module does, and not this."""
        global _record
        if _record is _recorded:
            _record = torch.compiler.disable(_recorded, recursive=False)  # type: ignore[no-untyped-call]  # in torch
        return super().__new__(cls)

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.inner: Callable[..., Any] | None = vars(module).get("forward")
        self.draws: bool | None = None
        self.constant: set[tuple[int, str]] = set()  # large buffers that the first forward pass has left as they were

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """Return the forward pass itself, whose signature this one has."""
        inner: Callable[..., Any] = self.inner or type(self.module).forward.__get__(self.module)
        return inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass."""
        if not (self.module.training and torch.is_grad_enabled()):
            return self.plain(*args, **kwargs)
        if torch._C._are_functorch_transforms_active():
            raise TrainingError(
                f"module '{self.name}' cannot be recomputed within torch.func: found a loss that calls the model in a "
                "transform such as torch.func.grad, expected torch.autograd.grad",
                hint=f"{_LEAVE_OUT}, or use torch.autograd.grad(…, create_graph=True)",
            )
        return _record(self, args, kwargs)

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass once, and keep its activations."""
        if self.inner is not None:
            return self.inner(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def generators(self) -> Callable[[], None] | None:
        """Return a function that puts the generators back to their present state; None within a capture.

        Raises:
            TrainingError: if the capture of a graph would have to repeat random numbers of the device.
        """
        if not _is_capturing():
            return rng_snapshot()
        if self.draws is not False:
            raise TrainingError(f"module '{self.name}' is recomputed with random numbers, which a graph cannot repeat")
        return None

    def require_repeatable(self, tensors: Sequence[Tensor], versions: Sequence[int], before: _State) -> None:
        """Check after a forward pass that another one can equal it.

        Raises:
            TrainingError: if it has changed its input, or a large buffer that no copy was made of.
        """
        if any(_version(tensor) != version for tensor, version in zip(tensors, versions, strict=True)):
            raise TrainingError(
                f"module '{self.name}' cannot be recomputed: its forward pass changes its input in place",
                hint=f"{_LEAVE_OUT}, or change a copy (without `inplace=True`, for example)",
            )
        if (buffer := before.settle(self.constant)) is not None:
            raise TrainingError(
                f"module '{self.name}' cannot be recomputed: its forward pass changes buffer '{buffer}', which the "
                "first forward pass has not changed",
                hint=_LEAVE_OUT,
            )


def _recorded(own: Recomputed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the forward pass, and remember all that another run needs.

    Tensors are passed by position: torch then notices if one of them is changed before the backward pass.
    """
    leaves, layout = tree_flatten((args, kwargs))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    tensors = [leaves[place] for place in places]
    for place in places:
        leaves[place] = None
    before = _State(own.module, own.constant)
    put_generators = own.generators()
    is_again = False

    def run(*given: Tensor) -> Any:
        nonlocal is_again
        values = leaves.copy()
        for place, tensor in zip(places, given, strict=True):
            values[place] = tensor
        args, kwargs = tree_unflatten(values, layout)
        if not is_again:
            is_again = True
            return own.plain(*args, **kwargs)
        with before.restored(), nullcontext() if put_generators is None else preserved_rng():
            if put_generators is not None:
                put_generators()
            return own.plain(*args, **kwargs)

    versions, states = [_version(tensor) for tensor in tensors], _device_states()
    result = checkpoint(run, *tensors, use_reentrant=False, preserve_rng_state=False)
    own.require_repeatable(tensors, versions, before)
    if not own.draws and put_generators is not None:
        own.draws = not all(map(torch.equal, states, _device_states()))
    return result


_record = _recorded


class _State:
    """State that a forward pass of a module may read and change, as it is before.

    Parameters and attributes are remembered by identity, buffers by value. Large buffers that never change, such as
    tables of positions, are not copied.

    Args:
        module: The module.
        constant: Buffers that are known not to change.
    """

    def __init__(self, module: nn.Module, constant: set[tuple[int, str]]) -> None:
        self._holders: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._copies: dict[int, Tensor] = {}
        self._large: list[tuple[tuple[int, str], Tensor, int]] = []
        for place, part in enumerate(module.modules()):
            for holder in (vars(part), part._parameters, part._buffers):
                self._holders.append((holder, dict(holder)))
            for name, buffer in part._buffers.items():
                if buffer is None or id(buffer) in self._copies:
                    continue
                if buffer.numel() * buffer.element_size() > _SMALL:
                    self._large.append(((place, name), buffer, _version(buffer)))
                    if (place, name) in constant:
                        continue
                self._copies[id(buffer)] = buffer.detach().clone()

    def settle(self, constant: set[tuple[int, str]]) -> str | None:
        """Look at the state after the forward pass; return the name of a buffer that was taken for a constant.

        Large buffers that a first forward pass has left as they were are constants from then on, and are not copied
        again. Former values of attributes lose their history: it would keep all former forward passes in memory.
        """
        for holder, entries in self._holders:
            for name, value in entries.items():
                if holder.get(name) is not value and id(value) not in self._copies:
                    entries[name] = tree_map_only(Tensor, _without_history, value)
        for key, buffer, version in self._large:
            if key in constant:
                if _version(buffer) != version:
                    return key[1]
            elif _version(buffer) == version and _equal(buffer, self._copies[id(buffer)]):
                constant.add(key)
                del self._copies[id(buffer)]
        self._large = []
        return None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Give the module its former state within a block, and the present one back at its end."""
        present = [(holder, dict(holder)) for holder, _ in self._holders]
        copies = {place: copy.clone() for place, copy in self._copies.items()}
        for holder, entries in self._holders:
            given = {name: copies.get(id(value), value) for name, value in entries.items()} if copies else entries
            restore(holder, given)
        try:
            yield
        finally:
            for holder, entries in present:
                restore(holder, entries)


def restore(holder: dict[Any, Any], entries: Mapping[Any, Any]) -> None:
    """Give a dict exactly these entries; those that it has are left alone."""
    for key in [key for key in holder if key not in entries]:
        del holder[key]
    for key, value in entries.items():
        if key not in holder or holder[key] is not value:
            holder[key] = value


def _without_history(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_leaf else tensor.detach()


def _equal(buffer: Tensor, copy: Tensor) -> bool:
    """Compare the values of a buffer whose version is the same; sparse ones are not written to in another way."""
    return buffer.layout is not torch.strided or torch.equal(buffer, copy)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _is_capturing() -> bool:
    """Return True if the current stream of a CUDA device captures a graph."""
    return _uses_cuda() and torch.cuda.is_current_stream_capturing()


def _device_states() -> list[Tensor]:
    """Return the states of the generators of all CUDA devices, which lie in the memory of the host."""
    return torch.cuda.get_rng_state_all() if _uses_cuda() and not _is_capturing() else []


def _uses_cuda() -> bool:
    return torch.cuda.is_initialized()  # type: ignore[no-untyped-call, no-any-return]  # untyped in torch
