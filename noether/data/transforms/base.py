"""Transform: a map from sample to sample, with its fitted state and an optional inverse."""

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
        deterministic: True if equal samples always give equal results.
        batched: True if a whole batch, every property with a leading batch dimension, may be passed in place
            of a sample. Counts for deterministic transforms only: the samples of a batch share no randomness.
        keeps_properties: True if a sample always has the same properties before and after.
        takes_exact: True if it may be given float64 where a sample has float32, so that a file's numbers are rounded
            after it.

    Args:
        transform_config: Configuration of the transform.
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
