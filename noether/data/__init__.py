"""Data sets, their order, their transforms and the one loader that serves training and evaluation alike."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noether.data.container import DataContainer as DataContainer
    from noether.data.dataset import Dataset as Dataset
    from noether.data.dataset import InMemoryDataset as InMemoryDataset
    from noether.data.dataset import StoredDataset as StoredDataset
    from noether.data.splits import train_test_indices as train_test_indices
    from noether.kernel.watchdog import has_progressed as has_progressed

_HOMES = {
    "DataContainer": ".container",
    "Dataset": ".dataset",
    "InMemoryDataset": ".dataset",
    "StoredDataset": ".dataset",
    "has_progressed": "noether.kernel.watchdog",
    "train_test_indices": ".splits",
}
__all__ = ["DataContainer", "Dataset", "InMemoryDataset", "StoredDataset", "has_progressed", "train_test_indices"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the package itself needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
