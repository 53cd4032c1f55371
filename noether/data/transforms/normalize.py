"""Normalize: scale properties by statistics of the training set, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from noether.config.components import TransformBaseConfig
from noether.data.dataset import AnyDataset
from noether.data.fetch import whole_batches
from noether.data.transforms.base import Transform
from noether.errors import DataError
from noether.kernel.names import did_you_mean


class RunningStatistics:
    """Accumulates batch by batch; merges as in Chan, Golub & LeVeque (1979).

    Args:
        component_dim: Dimension of a sample whose entries get statistics of their own, or None for one
            statistic of everything. A sample that has no such dimension counts as one component.
    """

    def __init__(self, component_dim: int | None) -> None:
        self.component_dim = component_dim
        self.count = 0
        self.sample_dims = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)  # sum of squared deviations from the mean
        self.minimum = torch.full((), torch.inf, dtype=torch.float64)
        self.maximum = torch.full((), -torch.inf, dtype=torch.float64)

    def add(self, batch: Tensor) -> None:
        """Take in a batch of shape (batch, ...)."""
        values = batch.to(torch.float64)
        self.sample_dims = values.ndim - 1
        dims = self._reduced(values)
        count = math.prod(values.shape[dim] for dim in dims)
        mean = values.mean(dims, keepdim=True)
        squares = (values - mean).square_().sum(dims)
        mean = mean.squeeze(dims)
        delta, total = mean - self.mean, self.count + count
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total
        self.minimum = torch.minimum(self.minimum, values.amin(dims))
        self.maximum = torch.maximum(self.maximum, values.amax(dims))

    def _reduced(self, values: Tensor) -> tuple[int, ...]:
        if self.component_dim is None or values.ndim < 2:
            return tuple(range(values.ndim))
        kept = self.component_dim + 1 if self.component_dim >= 0 else values.ndim + self.component_dim
        return tuple(dim for dim in range(values.ndim) if dim != kept)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of the population."""
        return (self.squares / max(1, self.count)).sqrt()

    @property
    def constant(self) -> Tensor:
        """True for components that never vary; exact, while the deviation may be a rounding error above 0."""
        return self.minimum == self.maximum


_COMPONENT_DIM = {"component": -1, "channel": 0, "property": None}

_SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # float32 cannot divide by less


class NormalizeConfig(TransformBaseConfig):
    """Settings of `normalize`."""

    properties: list[str] = Field(
        min_length=1, examples=[["points", "pressure_target"]], description="Properties to normalise."
    )
    method: Literal["mean-std", "min-max"] = Field(
        "mean-std",
        description="mean-std: to mean 0 and standard deviation 1. min-max: to between 0 and 1.",
    )
    per: Literal["component", "channel", "property"] = Field(
        "component",
        description="Part of a property that has its own statistics. component: each entry of a sample's last "
        "dimension (of a vector, or of a field on points). channel: each entry of its first one (of an image). "
        "property: the property as a whole. A sample that is a single number is one component.",
    )


class Normalize(Transform):
    """Maps `x` to `(x - shift) / scale`, with shift and scale from the training set.

    A component that never varies is only shifted.

    Args:
        transform_config: Configuration of the transform.
    """

    deterministic = True
    batched = True
    keeps_properties = True

    def __init__(self, transform_config: NormalizeConfig) -> None:
        super().__init__(transform_config)
        self.names = list(transform_config.properties)
        self.method = transform_config.method
        self.per = transform_config.per
        self._shift: dict[str, Tensor] = {}
        self._scale: dict[str, Tensor] = {}

    @property
    def fitted(self) -> bool:
        """True if shift and scale are known."""
        return self._shift.keys() >= set(self.names)

    def fit(self, dataset: AnyDataset) -> None:
        """Compute shift and scale, in float64.

        Raises:
            DataError: if the data set is empty, lacks a property, or a property holds integers or non-finite
                numbers.
        """
        statistics = {name: RunningStatistics(_COMPONENT_DIM[self.per]) for name in self.names}
        for batch in whole_batches(dataset):
            for name in self.names:
                statistics[name].add(_floats(name, batch))
        for name, values in statistics.items():
            self._shift[name], self._scale[name] = self._shift_and_scale(name, values)

    def _shift_and_scale(self, name: str, values: RunningStatistics) -> tuple[Tensor, Tensor]:
        if not (values.count and values.mean.isfinite().all()):
            found = "NaN or infinity in the training set" if values.count else "no training samples"
            raise DataError(f"cannot normalise {name!r}: found {found}, expected finite numbers")
        if self.method == "mean-std":
            shift, scale = values.mean, values.deviation
        else:
            shift, scale = values.minimum, values.maximum - values.minimum
        scale = torch.where(values.constant | (scale < _SMALLEST_SCALE), 1.0, scale)
        if self.per == "channel" and shift.ndim:
            trailing = (1,) * (values.sample_dims - 1)  # so that channels line up in samples and in batches
            return shift.view(-1, *trailing), scale.view(-1, *trailing)
        return shift, scale

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample, or batch, with its properties normalised."""
        result = dict(sample)
        for name in self.names:
            if name not in sample:
                raise _lacking(name, sample)
            value, shift, scale = self._operands(name, sample[name])
            result[name] = ((value - shift) / scale).to(sample[name].dtype)
        return result

    def inverts(self, name: str) -> bool:
        """Return True if this transform normalises the property."""
        return name in self.names

    def inverse(self, name: str, tensor: Tensor) -> Tensor:
        """Return a property, or a prediction of it, in the units of the data."""
        if not self.inverts(name):
            return tensor
        value, shift, scale = self._operands(name, tensor)
        return value * scale + shift

    def _operands(self, name: str, tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tensor, shift and scale, in float32 at least: half precision cannot hold a shift."""
        if not self.fitted:
            raise DataError(
                f"no statistics of {name!r}: the transform is not fitted", hint="call fit or load_state_dict first"
            )
        value = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        return value, self._shift[name].to(value), self._scale[name].to(value)

    def state_dict(self) -> dict[str, Tensor]:
        """Return each property's `<property>/shift` and `<property>/scale`, in float64."""
        kinds = (("shift", self._shift), ("scale", self._scale))
        return {f"{name}/{kind}": values[name].clone() for name in self._shift for kind, values in kinds}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over shift and scale.

        Raises:
            DataError: if the state lacks a property that this transform normalises.
        """
        lacking = [name for name in self.names if not {f"{name}/shift", f"{name}/scale"} <= state.keys()]
        if lacking:
            raise DataError(f"incomplete statistics: found {', '.join(state) or 'none'}, expected {', '.join(lacking)}")
        self._shift = {name: state[f"{name}/shift"].clone() for name in self.names}
        self._scale = {name: state[f"{name}/scale"].clone() for name in self.names}


def _floats(name: str, batch: Mapping[str, Tensor]) -> Tensor:
    if name not in batch:
        raise _lacking(name, batch)
    if not batch[name].is_floating_point():
        raise DataError(f"cannot normalise {name!r}: found {batch[name].dtype}, expected floating-point numbers")
    return batch[name]


def _lacking(name: str, sample: Mapping[str, Any]) -> DataError:
    guess = did_you_mean(name, sample)
    return DataError(f"cannot normalise {name!r}: unknown property, expected one of {', '.join(sample)}.{guess}")
