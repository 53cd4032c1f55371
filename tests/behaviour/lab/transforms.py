"""Transforms of the project."""

import torch

from noether.data.transforms import Transform


class Log(Transform):
    """Trains on the logarithm of the target; reads the label of every sample."""

    deterministic = True
    batched = True

    def __call__(self, sample):
        return {**sample, "y_target": sample["y_target"].log()}

    def inverse(self, name, tensor):
        return tensor.exp() if name == "y_target" else tensor


class LogForEver(Log):
    """Has no way back."""

    def inverse(self, name, tensor):
        return tensor


class Centered(Transform):
    """Lets the label leak into the inputs."""

    def __call__(self, sample):
        return {**sample, "x": sample["x"] - sample["y_target"].mean()}


class Jitter(Transform):
    """Random augmentation."""

    def __call__(self, sample):
        return {**sample, "x": sample["x"] + torch.randn(3)}


class Kilo(Transform):
    """Turns thousands into units, without saying anything about batches."""

    def __call__(self, sample):
        return {**sample, "x": sample["x"] / 1000, "y_target": sample["y_target"] / 1000}

    def inverse(self, name, tensor):
        return tensor * 1000 if name in ("x", "y_target") else tensor


class Regime(Transform):
    """Scales samples of some regimes only."""

    def __call__(self, sample):
        return {**sample, "x": sample["x"] * (100 if sample["regime"] >= 3 else 1)}
