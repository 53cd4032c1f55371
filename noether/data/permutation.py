"""The order of an epoch, as a pure function of (seed, epoch)."""

from __future__ import annotations

import numpy as np
import torch

from noether.data.mixing import mix, mix_range


def permutation(n: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order in which epoch `epoch` visits `n` samples.

    Sorting by a counter-based key needs no random generator, so that the order can be had again from three
    integers after any interruption, on any platform and with any version of torch and numpy. The keys are
    pairwise different, so the result does not depend on the sorting algorithm either.

    Returns:
        int64 tensor of shape (n,) that holds every integer from 0 to n-1 once.
    """
    keys = mix_range(mix(seed, epoch), n)
    return torch.from_numpy(np.argsort(keys).astype(np.int64, copy=False))
