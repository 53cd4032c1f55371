"""One exponential moving average of a model's weights: followed, exchanged with the live ones, saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from noether.core.callbacks.checkpoint.flat import FlatParameters
from noether.core.callbacks.checkpoint.live_weights import LiveWeights


class Average:
    """Follows weights as `average = factor * average + (1 - factor) * weight`; buffers are copied.

    Averages are kept in float32 at least: the small steps of a factor near 1 would be lost in half precision. All
    parameters are updated by a few calls for the whole model, on lists that are made once.

    Args:
        live: The weights to follow; the averages begin as they are now.
        factor: Weight of the past, in [0, 1).
        flat: The parameters in one buffer, where they are kept so; then the averages are one buffer too.
    """

    def __init__(self, live: LiveWeights, factor: float, flat: FlatParameters | None = None) -> None:
        self.factor = factor
        self._live = live
        self._parameters = list(live.parameters.values())
        self._weights: list[Tensor] = [*self._parameters]
        self._flat = flat
        if flat is None:
            self._averages = [_own(parameter) for parameter in self._parameters]
        else:
            self._flat_average = flat.buffer.clone()
            self._averages = flat.views_of(self._flat_average)
        self._buffers = {name: buffer.detach().clone() for name, buffer in live.buffers().items()}
        # Half-precision weights are converted into these first: a lerp takes one type only.
        converted = any(
            average.dtype != parameter.dtype
            for average, parameter in zip(self._averages, self._parameters, strict=True)
        )
        self._converted = [torch.empty_like(average) for average in self._averages] if converted else None

    def update(self, applied: Tensor | None = None) -> None:
        """Follow one optimizer update.

        Args:
            applied: 0-dim, 1 where the update was applied and 0 where not; None where it is known to be applied.
        """
        weights = self._weights
        if self._flat is not None:
            self._flat.check()
            share = 1.0 - self.factor if applied is None else applied * (1.0 - self.factor)
            self._flat_average.lerp_(self._flat.buffer, share)
        elif weights:
            if self._converted is not None:
                torch._foreach_copy_(self._converted, weights)
                weights = self._converted
            if applied is None:
                torch._foreach_lerp_(self._averages, weights, 1.0 - self.factor)
            else:
                torch._foreach_lerp_(self._averages, weights, [applied * (1.0 - self.factor)] * len(weights))
        if self._buffers:
            self._copy_buffers(applied)

    def _copy_buffers(self, applied: Tensor | None) -> None:
        for name, buffer in self._live.buffers().items():
            kept = self._buffers[name]
            kept.copy_(buffer if applied is None else torch.where(applied.bool(), buffer, kept))

    @contextmanager
    def in_place_of_live(self, *, exchange: bool) -> Iterator[None]:
        """Put the averages into the model; its own weights are back afterwards, also after an error.

        Args:
            exchange: Exchange storages instead of copying values: possible where nothing else holds them, such as a
                compiled graph or sharded parameters.
        """
        held = [parameter.data if exchange else parameter.data.clone() for parameter in self._parameters]
        buffers = self._live.buffers()
        try:
            self._put(self._in_model_type(), exchange=exchange)
            self._live.put_buffers({name: buffer.clone() for name, buffer in self._buffers.items()})
            yield
        finally:
            self._put(held, exchange=exchange)
            self._live.put_buffers(buffers)

    def _in_model_type(self) -> list[Tensor]:
        if self._converted is None:
            return self._averages
        return [
            average.to(parameter.dtype) for average, parameter in zip(self._averages, self._parameters, strict=True)
        ]

    def _put(self, tensors: list[Tensor], *, exchange: bool) -> None:
        if not exchange:
            torch._foreach_copy_([parameter.data for parameter in self._parameters], tensors)
            return
        for parameter, tensor in zip(self._parameters, tensors, strict=True):
            parameter.data = tensor

    def state(self) -> dict[str, Tensor]:
        """Return the averages themselves under the model's names, tied ones as the same tensor."""
        tensors = dict(zip(self._live.parameters, self._averages, strict=True)) | self._buffers
        return tensors | {alias: tensors[name] for alias, name in self._live.aliases.items()}


def _own(parameter: nn.Parameter) -> Tensor:
    tensor = parameter.detach()
    dtype = torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype
    return tensor.to(dtype, copy=True)
