"""Samplers: the order of training samples and evaluation passes."""

from noether.data.samplers.interleaved import InterleavedSampler
from noether.data.samplers.tagged import SamplerIntervalConfig

__all__ = ["InterleavedSampler", "SamplerIntervalConfig"]
