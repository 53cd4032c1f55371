"""Fitting transforms on the training set, and seeing data sets through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from noether.data.dataset import AnyDataset
from noether.data.transformed import transformed
from noether.data.transforms.base import Transform
from noether.errors import DataError


class PreparedDatasets:
    """The run's data sets after their transforms: a data set's own first, then those that all share.

    A data set's own transforms make it look like the others (units, augmentation); the shared ones then bring
    all to what the model likes. What a transform learns, it learns from the training set alone, after the
    transforms before it.

    Args:
        datasets: The data sets as they are, by key.
        shared: Transforms of every data set.
        own: Transforms of one data set, by its key.
    """

    def __init__(
        self,
        datasets: Mapping[str, AnyDataset],
        shared: Sequence[Transform] = (),
        own: Mapping[str, Sequence[Transform]] | None = None,
    ) -> None:
        self.datasets = dict(datasets)
        self.shared = tuple(shared)
        self.own = {key: tuple(transforms) for key, transforms in (own or {}).items()}
        self._prepared: dict[str, AnyDataset] = {}

    def get(self, key: str) -> AnyDataset:
        """Return the data set `key` after its transforms, which are fitted where they are not yet."""
        if key not in self._prepared:
            self._fit(self.own.get("train", ()) + self.shared)
            self._fit(self.own.get(key, ()))
            self._prepared[key] = transformed(self.datasets[key], self.own.get(key, ()) + self.shared)
        return self._prepared[key]

    def _fit(self, transforms: tuple[Transform, ...]) -> None:
        for place, transform in enumerate(transforms):
            if transform.fitted:
                continue
            if "train" not in self.datasets:
                kind = transform.config.kind if transform.config else ""
                raise DataError(
                    f"the transform {kind or type(transform).__name__!r} learns from the training set, and "
                    f"there is none; the data sets are {', '.join(self.datasets)}",
                    hint="add [datasets.train], or load the state of a run that had one",
                )
            transform.fit(transformed(self.datasets["train"], transforms[:place]))

    def inverse(self, name: str, tensor: Tensor) -> Tensor:
        """Return a batch of the property `name` in the units of the training data."""
        transforms = self.own.get("train", ()) + self.shared
        if any(transform.inverts(name) for transform in transforms):
            self._fit(transforms)
        for transform in reversed(transforms):
            tensor = transform.inverse(name, tensor)
        return tensor

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the transforms have learnt, as one flat dict."""
        named = self._named().items()
        return {f"{prefix}/{name}": value for prefix, t in named for name, value in t.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what the transforms of another run learnt; data sets are seen anew through them.

        Raises:
            DataError: The state does not fit the transforms.
        """
        for prefix, transform in self._named().items():
            start = f"{prefix}/"
            part = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
            if part or transform.state_dict() or not transform.fitted:
                transform.load_state_dict(part)
        self._prepared.clear()

    def _named(self) -> dict[str, Transform]:
        named = {f"transforms/{place}": transform for place, transform in enumerate(self.shared)}
        for key, transforms in self.own.items():
            named |= {f"datasets/{key}/transforms/{place}": t for place, t in enumerate(transforms)}
        return named
