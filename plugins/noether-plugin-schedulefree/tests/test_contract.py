"""Each optimizer keeps the contract of its role: it learns, and a resumed run equals a straight one bit for bit."""

import pytest

from noether.testing import OptimizerContract


class TestAdamW(OptimizerContract):
    config = {"kind": "schedulefree-adamw", "lr": 0.01, "warmup_steps": 3}


@pytest.mark.long
class TestRAdam(OptimizerContract):
    config = {"kind": "schedulefree-radam", "lr": 0.1}


@pytest.mark.long
class TestSGD(OptimizerContract):
    config = {"kind": "schedulefree-sgd", "lr": 0.1}
