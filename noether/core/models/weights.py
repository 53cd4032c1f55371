"""Puts tensors of a checkpoint into a model and tells exactly which of them fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from noether.errors import CheckpointError

_SHOWN = 12  # names in a message


@dataclass(frozen=True, slots=True)
class WeightsMatch:
    """Which tensors of a checkpoint fit a model.

    Attributes:
        fitting: Tensors to load, by their name in the model.
        wanted: How many tensors of the model were asked for.
        missing: Names that the model has and the checkpoint has not; a tied name is there where its twin is.
        unused: Names that the checkpoint has and the model has not.
        other_shape: What differs, by name: `(10, 64) instead of (12, 64)`.
    """

    fitting: Mapping[str, Tensor]
    wanted: int
    missing: Sequence[str]
    unused: Sequence[str]
    other_shape: Mapping[str, str]

    @property
    def is_complete(self) -> bool:
        """Whether the checkpoint has all that the model wants, and nothing else."""
        return not (self.missing or self.unused or self.other_shape)

    def report(self, source: str) -> str:
        """Return in one line how much was loaded from `source`, and what was not."""
        found = self.wanted - len(self.missing) - len(self.other_shape)
        shapes = [f"{name} {difference}" for name, difference in self.other_shape.items()]
        lists = {"not in the checkpoint": self.missing, "not in the model": self.unused, "other shape": shapes}
        parts = [f"{title}: {_listed(names)}" for title, names in lists.items() if names]
        return "; ".join([f"{found} of {self.wanted} tensors loaded from {source}", *parts])

    def require_complete(self, source: str, *, hint: str) -> None:
        """Check that everything fits.

        Raises:
            CheckpointError: It does not; the message lists what.
        """
        if not self.is_complete:
            raise CheckpointError("the weights do not fit the model: " + self.report(source), hint=hint)

    def load_into(self, model: nn.Module) -> None:
        """Copy what fits into the model's own tensors, which stay where they are; what does not fit stays as it was."""
        with torch.no_grad():
            model.load_state_dict(dict(self.fitting), strict=False)


def match_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], wanted: Callable[[str], bool] = lambda _: True
) -> WeightsMatch:
    """Compare the tensors of a checkpoint with those of a model.

    Args:
        model: Its parameters and persistent buffers are what a checkpoint holds.
        tensors: Tensors by their name in the model.
        wanted: Whether the tensor of this name is to be loaded; others are left alone on both sides.
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


def _place(tensor: Tensor) -> object:
    """Return what two names have in common that stand for the same tensor, as tied weights do."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else object()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
