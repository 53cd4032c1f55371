"""The callback and the run plugin keep the contracts of their roles."""

from noether.testing import CallbackContract, RunPluginContract


class TestGradNorm(CallbackContract):
    config = {"kind": "gradnorm/grad-norm", "every_n_updates": 1}
    budget_us = 500  # a norm of all gradients at every update


class TestHello(RunPluginContract):
    config = "hello"
