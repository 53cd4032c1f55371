"""Seeds and permutations: pure functions of (seed, epoch, index)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF


def mix(word: int, counter: int) -> int:
    """Return the 64-bit key at place `counter` of the stream that starts at `word`; both any integers."""
    z = (word + (counter + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def mix_range(word: int, n: int) -> NDArray[np.uint64]:
    """Return `mix(word, i)` for i = 0 … n-1 as an array; all entries differ."""
    z = np.arange(1, n + 1, dtype=np.uint64)
    z *= np.uint64(_GOLDEN)
    z += np.uint64(word & _MASK)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_FIRST)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_SECOND)
    z ^= z >> np.uint64(31)
    return z


LARGEST_SORTED = 1 << 24
"""Samples up to which the order of an epoch is sorted and held; that of more samples is a `Bijection`."""


def permutation(n: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order in which epoch `epoch` visits `n` samples.

    Sorting by a counter-based key needs no random generator, so that the order can be computed again from three
    integers after any interruption, on any platform and with any version of torch and numpy. The keys are
    pairwise different, so the result does not depend on the sorting algorithm either.

    Above `LARGEST_SORTED` samples it is the order of a `Bijection`, of which `TrainingOrder` computes a part at a time.

    Returns:
        int64 tensor of shape (n,) that holds every integer from 0 to n-1 once.
    """
    if n > LARGEST_SORTED:
        return Bijection(n, mix(seed, epoch)).at(torch.arange(n))
    keys = mix_range(mix(seed, epoch), n)
    return torch.from_numpy(np.argsort(keys).astype(np.int64, copy=False))


class Bijection:
    """A permutation of 0 … n-1 of which any entry is computed without the others, so that nothing grows with `n`.

    Each round multiplies by an odd number, adds, and folds the upper half of the bits into the lower half: all of these
    can be undone on numbers of as many bits as n-1 has. A result outside of the range takes the rounds again
    (cycle walking), once on average at most.

    Args:
        n: Number of entries.
        word: Key; each word gives a permutation of its own.
    """

    ROUNDS = 6

    def __init__(self, n: int, word: int) -> None:
        bits = max(3, (n - 1).bit_length())
        mask = (1 << bits) - 1
        self._n = np.uint64(n)
        self._mask, self._fold = np.uint64(mask), np.uint64((bits + 1) // 2)
        self._keys = [
            (np.uint64(mix(word, 2 * place) & mask | 1), np.uint64(mix(word, 2 * place + 1) & mask))
            for place in range(self.ROUNDS)
        ]

    def at(self, places: torch.Tensor) -> torch.Tensor:
        """Return the entries at `places`, an int64 tensor of any length."""
        entries = self._mixed(places.numpy().astype(np.uint64))
        outside = np.flatnonzero(entries >= self._n)
        while len(outside):
            entries[outside] = again = self._mixed(entries[outside])
            outside = outside[again >= self._n]
        return torch.from_numpy(entries.view(np.int64))

    def _mixed(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Change the words in place; each function of it can be undone."""
        folded = np.empty_like(words)
        for factor, summand in self._keys:
            words *= factor
            words += summand
            words &= self._mask
            np.right_shift(words, self._fold, out=folded)
            words ^= folded
        return words


class BlockShuffle:
    """A permutation of 0 … n-1 that stays near in a file: blocks of consecutive samples, mixed a window at a time.

    Blocks change places as wholes, and the samples of `WINDOW` blocks that follow each other are mixed, so that a disk
    reads in a row and each chunk of a compressed file is read about once. The blocks begin elsewhere for each word:
    no sample is always in the incomplete block, which comes last.

    Args:
        n: Number of samples.
        block: Samples in a block.
        word: Key; each word gives a permutation of its own.
    """

    WINDOW = 64

    def __init__(self, n: int, block: int, word: int) -> None:
        self._n, self._block = n, block
        self._blocks = n // block
        self._shift, self._word = mix(word, 0) % n, mix(word, 1)
        self._places = Bijection(max(self._blocks, 1), mix(word, 2))

    def at(self, places: torch.Tensor) -> torch.Tensor:
        """Return the entries at `places`, an int64 tensor of any length."""
        size, found = self.WINDOW * self._block, places.numpy()
        windows = found // size
        mixed = np.empty_like(found)
        for window in np.unique(windows).tolist():
            inside, start = windows == window, window * size
            within = Bijection(min(size, self._n - start), mix(self._word, window))
            mixed[inside] = within.at(torch.from_numpy(found[inside] - start)).numpy() + start
        blocks = mixed // self._block
        moved = self._places.at(torch.from_numpy(np.minimum(blocks, max(self._blocks - 1, 0)))).numpy()
        mixed += np.where(blocks < self._blocks, moved - blocks, 0) * self._block  # the incomplete block stays
        mixed += self._shift - self._n  # a sum of both could be too large
        mixed[mixed < 0] += self._n
        return torch.from_numpy(mixed)


_SAMPLES = 0x53414D504C45  # keeps sample seeds unrelated to the order of the epoch

EVALUATION_EPOCH = -1
"""The epoch that seeds every evaluation pass, so that equal weights always give equal metrics."""


def epoch_key(seed: int, epoch: int) -> int:
    """Return the key of an epoch, computed once for each batch; `mix(key, index)` is the seed of a sample."""
    return mix(mix(seed, _SAMPLES), epoch)


def seed_sample(seed: int) -> None:
    """Put the generators of Python, numpy and torch (on the CPU) at the start of a sample's stream.

    `torch.manual_seed` would also reseed the accelerators, which draw for training, and takes 100 times as
    long.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def rng_snapshot() -> Callable[[], None]:
    """Return a function that puts the generators of Python, numpy and torch back to their present state.

    Those of CUDA devices are included if CUDA is in use already; other accelerators' are not.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    torch_state = torch.default_generator.get_state()
    uses_cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    cuda_states = torch.cuda.get_rng_state_all() if uses_cuda else None

    def put_back() -> None:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)

    return put_back


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the generators of `rng_snapshot` at the end of the block, also after an error."""
    put_back = rng_snapshot()
    try:
        yield
    finally:
        put_back()
