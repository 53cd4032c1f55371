"""Data that a run of the tiny spec cannot train on."""

from typing import Any

import numpy as np
import pytest


@pytest.fixture
def bad_sample(tiny_spec: dict[str, Any]) -> int:
    """Put a NaN in one training sample of the tiny spec; return its index."""
    arrays = dict(np.load("train.npz"))
    arrays["y_target"][20] = np.nan
    np.savez("train.npz", **arrays)
    return 20
