"""A Noether plugin: the optimizers of the package schedulefree, each an entry point and nothing else."""

from schedulefree import AdamWScheduleFree, RAdamScheduleFree, SGDScheduleFree

__all__ = ["AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree"]
