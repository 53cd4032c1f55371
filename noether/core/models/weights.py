"""Match tensors of a checkpoint with a model: load those that fit, report the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from noether.errors import CheckpointError
from noether.kernel.names import listed

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
        """Copy the fitting tensors into the model's own tensors, in place; the others keep their values."""
        with torch.no_grad():
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
    """Load all weights of a model.

    Args:
        model: The model.
        tensors: Its weights by name.
        source: Their file or checkpoint, for the error.
        hint: Remedy in the error.

    Raises:
        CheckpointError: if model and source do not have the same tensors in the same shapes.
    """
    match = match_weights(model, tensors)
    match.require_complete(str(source), hint=hint)
    match.load_into(model)


def _place(tensor: Tensor) -> object:
    """Return a key that is equal for two names of the same tensor, such as tied weights."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else object()
