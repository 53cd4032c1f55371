"""Turning integers into well-mixed 64-bit keys: the one source of every derived order and seed.

The mixer is the output function of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014). It is a bijection on 64-bit words, needs no state, and does not depend on any
library's version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
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
    import numpy as np

    z = np.arange(1, n + 1, dtype=np.uint64)
    z *= np.uint64(_GOLDEN)
    z += np.uint64(word & _MASK)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_FIRST)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_SECOND)
    z ^= z >> np.uint64(31)
    return z
