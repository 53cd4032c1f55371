"""`gradient-noise` keeps the contract of its role."""

from noether.testing import CallbackContract


class TestGradientNoise(CallbackContract):
    config = {"kind": "gradient-noise", "every_n_updates": 1}
    spec = {"trainer": {"max_batch_size": 2}}
    budget_us = 500
    ranks = False  # it refuses several
