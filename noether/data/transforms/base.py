"""Transform: a map from sample to sample, with what it has learnt and, where there is one, its inverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from noether.config.components import TransformBaseConfig
from noether.data.dataset import AnyDataset


class Transform:
    """Base of all transforms: `__call__(sample) -> sample`.

    A transform returns a new dict and leaves the one it is given alone. It may draw from the global
    generators of Python, numpy and torch: they are seeded for each sample.

    Attributes:
        deterministic: Whether equal samples always give equal results.
        batched: Whether a whole batch, every property with a leading batch dimension, may be passed in place
            of a sample. Counts for deterministic transforms only: the samples of a batch share no randomness.
        keeps_properties: Whether a sample always has the same properties before and after.

    Args:
        transform_config: Configuration of the transform.
    """

    deterministic: bool = False
    batched: bool = False
    keeps_properties: bool = False

    def __init__(self, transform_config: TransformBaseConfig | None = None) -> None:
        self.config = transform_config

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the transformed sample."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__, which maps a sample to a sample")

    @property
    def fitted(self) -> bool:
        """Whether it has all that it needs; one that learns from the training set has not before `fit`."""
        return True

    def fit(self, dataset: AnyDataset) -> None:
        """Learn from the training set, as it is after the transforms before this one."""

    def inverts(self, name: str) -> bool:
        """Return whether `inverse` changes the property `name`."""
        return False

    def inverse(self, name: str, tensor: Tensor) -> Tensor:
        """Return a batch of the property `name` as before the transform; unchanged without an inverse."""
        return tensor

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `fit` learnt."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what another instance learnt, in place of `fit`."""
