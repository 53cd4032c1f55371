"""The tensors of a model that a checkpoint of it holds, each once, as they are now."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noether.errors import SpecError


class LiveWeights:
    """Parameters and persistent buffers of a model, or of a part of it, under the names of its `state_dict`.

    Args:
        model: The model.
        path: Prefix of those names, such as `encoder`; None for the whole model.

    Attributes:
        parameters: The parameters by name; one that is tied to another stands under its first name only.
        aliases: The other names of tied tensors, with the first one.

    Raises:
        SpecError: The path is the prefix of no name.
    """

    def __init__(self, model: nn.Module, path: str | None = None) -> None:
        owners = _buffer_owners(model)
        state = {
            name: value  # what else is there, a module's extra state, is neither followed nor exchanged
            for name, value in model.state_dict(keep_vars=True).items()
            if isinstance(value, nn.Parameter) or id(value) in owners
        }
        chosen = [name for name in state if path is None or name == path or name.startswith(f"{path}.")]
        if not chosen:
            parts = dict.fromkeys(name.split(".", 1)[0] for name in state)
            raise SpecError(
                f"model_paths names {path!r}, but no weight of the model is called so, or {path}.…",
                hint=f"its parts are {', '.join(parts)}",
            )
        first_names: dict[int, str] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.aliases: dict[str, str] = {}
        self._buffers: dict[str, tuple[nn.Module, str]] = {}
        for name in chosen:
            tensor = state[name]
            if (first := first_names.setdefault(id(tensor), name)) != name:
                self.aliases[name] = first
            elif isinstance(tensor, nn.Parameter):
                self.parameters[name] = tensor
            else:
                self._buffers[name] = owners[id(tensor)]

    def buffers(self) -> dict[str, Tensor]:
        """Return the buffers by name; a module may put another tensor in the place of one at any time."""
        return {name: module._buffers[key] for name, (module, key) in self._buffers.items()}  # type: ignore[misc]  # a persistent buffer that is a tensor

    def put_buffers(self, buffers: dict[str, Tensor]) -> None:
        """Put other tensors in the place of the buffers."""
        for name, (module, key) in self._buffers.items():
            module._buffers[key] = buffers[name]


def _buffer_owners(model: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """Return which module holds which buffer, under which key."""
    return {
        id(buffer): (module, key)
        for module in model.modules()
        for key, buffer in module._buffers.items()
        if isinstance(buffer, torch.Tensor)
    }
