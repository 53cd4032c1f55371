"""The ranks of a run: one process, or several that a launcher has started. No other package knows ranks."""

from noether.training.parallel.one import Parallel, Single
from noether.training.parallel.ranks import RankLostError, Ranks, joined, parallel_of

__all__ = ["Parallel", "RankLostError", "Ranks", "Single", "joined", "parallel_of"]
