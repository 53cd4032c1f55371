"""Match tensors of a checkpoint with a model: load those that fit, report the others; buffers that change shape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from noether.errors import CheckpointError, TrainingError
from noether.kernel.names import listed
from noether.optim.kernels import is_expanded

_SHOWN = 12  # most names in a message


@dataclass(frozen=True, slots=True)
class WeightsMatch:
    """Comparison of a checkpoint's tensors with those of a model.

    Attributes:
        fitting: Tensors to load, by their names in the model.
        wanted: Number of selected tensors of the model.
        missing: Names in the model but not in the checkpoint; a tied name counts as present with its twin.
        unused: Names in the checkpoint but not in the model.
        other_shape: Both shapes of tensors that differ, by name: `(10, 64) instead of (12, 64)`.
    """

    fitting: Mapping[str, Tensor]
    wanted: int
    missing: Sequence[str]
    unused: Sequence[str]
    other_shape: Mapping[str, str]

    @property
    def is_complete(self) -> bool:
        """True if model and checkpoint have the same tensors in the same shapes."""
        return not (self.missing or self.unused or self.other_shape)

    def report(self, source: str) -> str:
        """Return one line with the number of tensors loaded from `source` and the names of the others."""
        found = self.wanted - len(self.missing) - len(self.other_shape)
        shapes = [f"{name} {difference}" for name, difference in self.other_shape.items()]
        lists = {"not in the checkpoint": self.missing, "not in the model": self.unused, "other shape": shapes}
        parts = [f"{title}: {listed(names, _SHOWN)}" for title, names in lists.items() if names]
        return "; ".join([f"{found} of {self.wanted} tensors loaded from {source}", *parts])

    def require_complete(self, source: str, *, hint: str) -> None:
        """Check that all tensors fit.

        Raises:
            CheckpointError: if one does not; the message lists all of them.
        """
        if not self.is_complete:
            raise CheckpointError("the weights do not fit the model: " + self.report(source), hint=hint)

    def load_into(self, model: nn.Module) -> None:
        """Copy the fitting tensors into the model's own tensors, in place; the others keep their values.

        An expanded tensor, whose elements are one in memory, gets memory for all of them first.
        """
        with torch.no_grad():
            for tensor in model.state_dict(keep_vars=True).values():
                if isinstance(tensor, Tensor) and is_expanded(tensor):
                    tensor.data = tensor.data.contiguous()
            model.load_state_dict(dict(self.fitting), strict=False)


def match_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], wanted: Callable[[str], bool] = lambda _: True
) -> WeightsMatch:
    """Compare the tensors of a checkpoint with those of a model.

    Args:
        model: Model whose parameters and persistent buffers are compared.
        tensors: Tensors by their names in the model.
        wanted: Return True to load the tensor of this name; other names are ignored on both sides.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if wanted(name)}
    given = {name: tensor for name, tensor in tensors.items() if wanted(name)}
    common = [name for name in own if name in given]
    fitting = {name: given[name] for name in common if given[name].shape == own[name].shape}
    loaded = {_place(own[name]) for name in fitting}
    return WeightsMatch(
        fitting=fitting,
        wanted=len(own),
        missing=[name for name in own if name not in given and _place(own[name]) not in loaded],
        unused=[name for name in given if name not in own],
        other_shape={
            name: f"{tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
            for name in common
            if name not in fitting
        },
    )


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: object, *, hint: str) -> None:
    """Load all weights of a model; a buffer that the run has resized takes its saved shape.

    Args:
        model: The model.
        tensors: Its weights by name.
        source: Their file or checkpoint, for the error.
        hint: Remedy in the error.

    Raises:
        CheckpointError: if model and source do not have the same tensors in the same shapes.
    """
    reshape_buffers(model, tensors)
    match = match_weights(model, tensors)
    match.require_complete(str(source), hint=hint)
    match.load_into(model)


def _place(tensor: Tensor) -> object:
    """Return a key that is equal for two names of the same tensor, such as tied weights."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else object()


_LOG = logging.getLogger("noether.models")


def reshape_buffers(model: nn.Module, tensors: Mapping[str, Tensor], *, filled: bool = True) -> None:
    """Give persistent buffers the shapes and types of saved ones: modules may resize them while they train.

    Args:
        model: The model; its buffers may begin as None.
        tensors: Saved tensors by their names in the model.
        filled: False to leave buffers that begin with values, and so with a shape that the model depends on.
    """
    slots = [(module, key) for module in model.modules() for key in module._buffers]
    absent = [(module, key) for module, key in slots if module._buffers[key] is None]
    for module, key in absent:
        module._buffers[key] = torch.empty(0)  # state_dict leaves None out, and so its name
    named = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    reshaped: dict[str, Tensor] = {}
    for module, key in slots:
        buffer, is_absent = module._buffers[key], (module, key) in absent
        assert buffer is not None, "all of them are tensors now"
        name = named.get(id(buffer), "")
        saved = tensors.get(name)
        if saved is None or is_lazy(buffer) or (buffer.numel() and not filled):
            module._buffers[key] = None if is_absent else buffer
        elif is_absent or (buffer.shape, buffer.dtype) != (saved.shape, saved.dtype):
            if buffer.numel():
                _LOG.warning(
                    "buffer %s has %s in the checkpoint and %s in a new model", name, _kind(saved), _kind(buffer)
                )
            device = _device_of(model) if is_absent else buffer.device
            module._buffers[key] = reshaped.setdefault(name, torch.empty_like(saved, device=device))


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def buffer_slots(model: nn.Module) -> frozenset[tuple[int, str]]:
    """Return the registered buffers, those that are None as well, by the id of their module and their key."""
    return frozenset((id(module), key) for module in model.modules() for key in module._buffers)


def require_no_new_buffers(model: nn.Module, known: frozenset[tuple[int, str]]) -> None:
    """Check that no forward pass has registered a persistent buffer.

    Args:
        model: The model.
        known: Return value of `buffer_slots` before the forward pass.

    Raises:
        TrainingError: if one has: the constructor does not make it, so a checkpoint of the run would not fit.
    """
    for path, module in model.named_modules():
        for key in module._buffers:
            if (id(module), key) not in known and key not in module._non_persistent_buffers_set:
                raise TrainingError(
                    f"the forward pass has registered a buffer: found {key!r} of {path or 'the model'} "
                    f"({type(module).__name__}), which a new model lacks, so no checkpoint of this run would fit it",
                    hint=f"register it in __init__: self.register_buffer({key!r}, None)",
                )
