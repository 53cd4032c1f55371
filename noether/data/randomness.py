"""A sample's randomness: derived from (seed, epoch, index), and kept out of training's generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from noether.data.mixing import mix

_SAMPLES = 0x53414D504C45  # keeps sample seeds unrelated to the order of the epoch

EVALUATION_EPOCH = -1
"""The epoch that seeds every evaluation pass, so that equal weights always give equal metrics."""


def epoch_key(seed: int, epoch: int) -> int:
    """Return what `sample_seed` needs of (seed, epoch), to be computed once a batch."""
    return mix(mix(seed, _SAMPLES), epoch)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return the 64-bit seed of sample `index` in epoch `epoch` of a run with seed `seed`."""
    return mix(epoch_key(seed, epoch), index)


def seed_sample(seed: int) -> None:
    """Put the generators of Python, numpy and torch (on the CPU) at the start of a sample's stream.

    `torch.manual_seed` would also reseed the accelerators, which draw for training, and takes 100 times as
    long.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Give the generators of Python, numpy and torch back as they were found, also after an error.

    Those of CUDA devices are included where CUDA is in use already; other accelerators' are not.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    torch_state = torch.default_generator.get_state()
    uses_cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    cuda_states = torch.cuda.get_rng_state_all() if uses_cuda else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
