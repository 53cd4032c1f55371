"""LiveWeights: the tensors of a model that averages follow: parameters, and what is copied like a buffer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from torch import Tensor, nn

from noether.errors import SpecError
from noether.optim.kernels import is_expanded, is_sharded, sharing

WHOLE = "composite_model"
"""First part of a path in `model_paths`, for the model itself, unless it has a part of that name."""


def _below(path: str | None, names: Iterable[str]) -> list[str]:
    return [name for name in names if path is None or name == path or name.startswith(f"{path}.")]


def _within_the_model(path: str | None) -> str | None:
    """Return a path without `composite_model`, which may stand for the model itself; None for the whole model."""
    return None if path is None or path == WHOLE else path.removeprefix(f"{WHOLE}.")


class LiveWeights:
    """Parameters and persistent buffers of a model or one of its parts, under the names of its `state_dict`.

    Args:
        model: The model.
        path: Prefix of the names, such as `encoder` or `composite_model.encoder`; None for the whole model.

    Attributes:
        parameters: Parameters that can be averaged, by name; a tied one under its first name only.
        aliases: Other names of tied tensors, each with the first name.

    Raises:
        SpecError: if no name starts with the path.
    """

    def __init__(self, model: nn.Module, path: str | None = None) -> None:
        self._model, self._path = model, path
        self.parameters: dict[str, nn.Parameter] = {}
        self.aliases: dict[str, str] = {}
        self._copied: dict[str, _Slot] = {}
        for name, tensor in self._find().items():
            if isinstance(tensor, nn.Parameter) and name not in self._copied:
                self.parameters[name] = tensor

    def _find(self) -> dict[str, Tensor]:
        """Return the tensors by their first names; those to copy get their slots, the other names become aliases."""
        self._present = self._buffers()
        slots, named = _slots(self._model), dict(self._model.named_parameters(remove_duplicate=False))
        saved = self._model.state_dict(keep_vars=True)  # a model that overrides it may return copies
        saved = {name: value if id(value) in slots else named.get(name, value) for name, value in saved.items()}
        state = {
            name: value  # a module's extra state is neither averaged nor exchanged
            for name, value in saved.items()
            if isinstance(value, nn.Parameter) or id(value) in slots
        }
        path = self._path
        chosen = _below(path, state) or _below(_within_the_model(path), state)
        if not chosen:
            parts = dict.fromkeys(name.split(".", 1)[0] for name in state)
            raise SpecError(
                f"unknown path in model_paths: found {path!r}, expected a prefix of the model's weight names",
                hint=f"the parts of the model are {', '.join(parts)}",
            )
        first_names: dict[int, str] = {}
        for name in chosen:
            first_names.setdefault(id(state[name]), name)
        firsts = {name: first_names[id(state[name])] for name in chosen}
        self.aliases = {name: first for name, first in firsts.items() if first != name}
        found = {name: state[name] for name in first_names.values()}
        self._copied = {name: slots[id(tensor)] for name, tensor in found.items() if id(tensor) in slots}
        return found

    def copied(self) -> dict[str, Tensor]:
        """Return the current buffers and parameters without an average by name.

        A module may replace such a tensor at any time, by one of another shape as well.
        """
        return {name: tensor for name, (owner, key) in self._copied.items() if (tensor := owner[key]) is not None}

    def find_late(self) -> None:
        """Find the buffers that were None so far, or were not there."""
        if self._present != self._buffers():
            self._find()

    def _buffers(self) -> frozenset[tuple[int, str]]:
        return frozenset(
            (id(module), key)
            for module in self._model.modules()
            for key, buffer in module._buffers.items()
            if buffer is not None
        )

    def put_copied(self, tensors: dict[str, Tensor]) -> None:
        """Replace the tensors that `copied` returns."""
        for name, tensor in tensors.items():
            owner, key = self._copied[name]
            owner[key] = tensor


def shares_memory(model: nn.Module) -> bool:
    """Return True if tensors of the model lie over each other, or are sharded, so that new storage would part them."""
    if any(map(is_sharded, model.parameters())):
        return True
    return sharing({**dict(model.named_parameters()), **dict(model.named_buffers())}) is not None


_Slot: TypeAlias = tuple[dict[str, Any], str]
"""The buffers or parameters of a module, and a key in them."""


def _slots(model: nn.Module) -> dict[int, _Slot]:
    """Return the places of buffers, and of parameters that are copied like them, by the id of the tensor."""
    owners = [owner for module in model.modules() for owner in (module._buffers, module._parameters)]
    return {
        id(tensor): (owner, key)
        for owner in owners
        for key, tensor in owner.items()
        if isinstance(tensor, Tensor) and not (isinstance(tensor, nn.Parameter) and _has_average(tensor))
    }


def _has_average(parameter: nn.Parameter) -> bool:
    """Return False for integers and booleans, and for expanded tensors, which no optimizer changes."""
    return (parameter.is_floating_point() or parameter.is_complex()) and not is_expanded(parameter)
