"""Transforms: maps from sample to sample, with a fitted state and an optional inverse; and `normalize`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from noether.config.components import TransformBaseConfig
from noether.data.dataset import LARGEST_ERROR, NOISE, AnyDataset
from noether.data.fetch import whole_batches
from noether.errors import DataError
from noether.kernel.names import did_you_mean


class Transform:
    """Base of all transforms: `__call__(sample) -> sample`.

    A transform returns a new dict and leaves the one it is given alone. It may draw from the global
    generators of Python, numpy and torch: they are seeded for each sample.

    Attributes:
        deterministic: True if equal samples always give equal results.
        batched: True if a whole batch, every property with a leading batch dimension, may be passed in place
            of a sample. Counts for deterministic transforms only: the samples of a batch share no randomness.
        keeps_properties: True if a sample always has the same properties before and after.
        takes_exact: True if it may be given float64 where a sample has float32, so that a file's numbers are rounded
            after it.
    """

    deterministic: bool = False
    batched: bool = False
    keeps_properties: bool = False
    takes_exact: bool = False

    def __init__(self, transform_config: TransformBaseConfig | None = None) -> None:
        self.config = transform_config

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the transformed sample."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__, which maps a sample to a sample")

    @property
    def fitted(self) -> bool:
        """True if it needs no `fit`, or after it."""
        return True

    def fit(self, dataset: AnyDataset) -> None:
        """Learn from the training set, as it is after the transforms before this one."""

    def inverts(self, name: str) -> bool:
        """Return True if `inverse` changes the property `name`."""
        return False

    def inverse(self, name: str, tensor: Tensor) -> Tensor:
        """Return a batch of the property `name` as before the transform; unchanged without an inverse."""
        return tensor

    def state_dict(self) -> dict[str, Tensor]:
        """Return the fitted state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of another instance, in place of `fit`."""


_LARGEST_INTEGER = 2**53
_ROUNDING = torch.finfo(torch.float32).eps
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # float32 cannot divide by less


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
        self.smallest_scale = _SMALLEST_SCALE
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)  # sum of squared deviations from the mean
        self.minimum = torch.full((), torch.inf, dtype=torch.float64)
        self.maximum = torch.full((), -torch.inf, dtype=torch.float64)

    def add(self, batch: Tensor) -> None:
        """Take in a batch of shape (batch, ...)."""
        values = batch.to(torch.float64)
        self.sample_dims = values.ndim - 1
        self.smallest_scale = torch.finfo(batch.dtype if batch.dtype == torch.float64 else torch.float32).tiny
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
        """True for components that never vary, but for rounding errors of the arithmetic that made them."""
        return self.maximum - self.minimum <= NOISE * torch.maximum(self.minimum.abs(), self.maximum.abs())


_COMPONENT_DIM = {"component": -1, "channel": 0, "property": None}


class NormalizeConfig(TransformBaseConfig):
    """Settings of `normalize`."""

    properties: list[str] = Field(
        min_length=1, examples=[["points", "pressure_target"]], description="Properties to normalise."
    )
    method: Literal["mean-std", "min-max", "log"] = Field(
        "mean-std",
        description="mean-std: to mean 0 and standard deviation 1. min-max: to between 0 and 1. log: mean-std of the "
        "natural logarithm, for numbers above 0 that span several powers of ten.",
    )
    per: Literal["component", "channel", "property"] = Field(
        "component",
        description="Part of a property that has its own statistics. component: each entry of a sample's last "
        "dimension (of a vector, or of a field on points). channel: each entry of its first one (of an image). "
        "property: the property as a whole. A sample that is a single number is one component.",
    )


class Normalize(Transform):
    """Maps `x` to `(x - shift) / scale`, with shift and scale from the training set; with `log`, its logarithm.

    Works in float64 on integers and on the numbers of a file, which are rounded to float32 afterwards. A component that
    never varies is only shifted.
    """

    deterministic = True
    batched = True
    keeps_properties = True
    takes_exact = True

    def __init__(self, transform_config: NormalizeConfig) -> None:
        super().__init__(transform_config)
        self.names = list(transform_config.properties)
        self.method = transform_config.method
        self.per = transform_config.per
        self._shift: dict[str, Tensor] = {}
        self._is_wide: dict[str, bool] = {}
        self._scale: dict[str, Tensor] = {}

    @property
    def fitted(self) -> bool:
        """True if shift and scale are known."""
        return self._shift.keys() >= set(self.names)

    def fit(self, dataset: AnyDataset) -> None:
        """Compute shift and scale, in float64.

        Raises:
            DataError: if the data set is empty, lacks a property, or a property holds no numbers, non-finite ones, or
                integers beyond 2**53.
        """
        statistics = {name: RunningStatistics(_COMPONENT_DIM[self.per]) for name in self.names}
        for batch in whole_batches(dataset):
            for name in self.names:
                statistics[name].add(self._measured(name, _numbers(name, batch)))
        for name, values in statistics.items():
            self._shift[name], self._scale[name] = self._shift_and_scale(name, values)

    def _measured(self, name: str, values: Tensor) -> Tensor:
        """Return a batch of the training set as its statistics see it."""
        if self.method != "log":
            return values
        if (values <= 0).any():
            raise DataError(
                f"cannot take the logarithm of {name!r}: found {float(values.min()):g} in the training set, expected "
                "numbers above 0",
                hint='use method = "mean-std", or leave out these samples',
            )
        return values.to(torch.float64).log()

    def _shift_and_scale(self, name: str, values: RunningStatistics) -> tuple[Tensor, Tensor]:
        if not (values.count and values.squares.isfinite().all()):
            is_too_large = values.count and bool(values.mean.isfinite().all())
            found = "NaN or infinity in the training set" if values.count else "no training samples"
            found = "numbers whose squares are beyond float64" if is_too_large else found
            raise DataError(f"cannot normalise {name!r}: found {found}, expected finite numbers")
        if self.method == "min-max":
            shift, scale = values.minimum, values.maximum - values.minimum
        else:
            shift, scale = values.mean, values.deviation
        scale = torch.where(values.constant | (scale < values.smallest_scale), 1.0, scale)
        if self.per == "channel" and shift.ndim:
            trailing = (1,) * (values.sample_dims - 1)  # so that channels line up in samples and in batches
            return shift.view(-1, *trailing), scale.view(-1, *trailing)
        return shift, scale

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample, or batch, with its properties normalised."""
        result = dict(sample)
        for name in self.names:
            given = _numbers(name, sample)
            value, shift, scale = self._operands(name, given)
            value = value.log() if self.method == "log" else value
            result[name] = ((value - shift) / scale).to(given.dtype if given.is_floating_point() else torch.float32)
        return result

    def inverts(self, name: str) -> bool:
        """Return True if this transform normalises the property."""
        return name in self.names

    def inverse(self, name: str, tensor: Tensor) -> Tensor:
        """Return a property, or a prediction of it, in the units of the data; in float64 if that needs it."""
        if not self.inverts(name):
            return tensor
        value, shift, scale = self._operands(name, tensor)
        restored = value * scale + shift
        return restored.exp() if self.method == "log" else restored

    def _operands(self, name: str, tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tensor, shift and scale, in float32 at least, since half precision cannot hold a shift."""
        if not self.fitted:
            raise DataError(
                f"no statistics of {name!r}: the transform is not fitted", hint="call fit or load_state_dict first"
            )
        is_exact = self._needs_float64(name) or not tensor.is_floating_point()
        at_least = torch.float64 if is_exact and tensor.device.type != "mps" else torch.float32  # mps has no float64
        value = tensor.to(torch.promote_types(tensor.dtype, at_least))
        return value, self._shift[name].to(value), self._scale[name].to(value)

    def _needs_float64(self, name: str) -> bool:
        """Return True if float32 cannot tell apart the numbers of some component; looked at once, not while traced."""
        if name not in self._is_wide:
            shift, scale = self._shift[name], self._scale[name]
            wide = (shift.abs() * _ROUNDING > scale * LARGEST_ERROR) | (scale < _SMALLEST_SCALE)
            self._is_wide[name] = bool(wide.any())
        return self._is_wide[name]

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
        self._is_wide = {}
        self._shift = {name: state[f"{name}/shift"].clone() for name in self.names}
        self._scale = {name: state[f"{name}/scale"].clone() for name in self.names}


def _numbers(name: str, batch: Mapping[str, Any]) -> Tensor:
    """Return a property that can be normalised: real numbers that float64 holds."""
    if name not in batch:
        raise _lacking(name, batch)
    values: Tensor = batch[name] if isinstance(batch[name], Tensor) else torch.as_tensor(batch[name])
    if values.is_floating_point():
        return values
    if values.dtype == torch.bool or values.is_complex():
        raise DataError(f"cannot normalise {name!r}: found {values.dtype}, expected real numbers")
    if values.numel() and float(values.double().abs().max()) > _LARGEST_INTEGER:
        raise DataError(f"cannot normalise {name!r}: found integers beyond 2**53, expected numbers that float64 holds")
    return values


def _lacking(name: str, sample: Mapping[str, Any]) -> DataError:
    guess = did_you_mean(name, sample)
    return DataError(f"cannot normalise {name!r}: unknown property, expected one of {', '.join(sample)}.{guess}")
