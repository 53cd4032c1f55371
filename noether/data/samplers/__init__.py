"""Which samples come next, and for whom."""

from noether.data.samplers.interleaved import InterleavedSampler
from noether.data.samplers.tagged import SamplerIntervalConfig

__all__ = ["InterleavedSampler", "SamplerIntervalConfig"]
