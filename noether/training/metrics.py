"""Metrics that are summed batch by batch: what to add up, and what the sums mean.

Each metric adds up tensors over batches of `prediction` and `target`, both `(batch, ...)`, in double precision, so that
a data set of any size needs no more memory than a batch and the order of samples does not matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from noether.core.callbacks.tracked import precise
from noether.errors import TrainingError


class SummedMetric(ABC):
    """A metric of a whole data set as a function of sums over its samples."""

    @staticmethod
    @abstractmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the sums over one batch."""

    @staticmethod
    @abstractmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        """Return the metric of all batches, whose sums are added up."""


def _count(values: Tensor) -> Tensor:
    return torch.tensor(values.numel(), dtype=torch.float64)


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    _refuse_broadcasting(prediction, target)
    return precise(prediction) - precise(target)


def _refuse_broadcasting(prediction: Tensor, target: Tensor) -> None:
    """Shapes such as (batch, 1) and (batch,) would compare every sample with every other."""
    if prediction.shape != target.shape:
        raise TrainingError(
            f"a metric compares predictions of shape {tuple(prediction.shape)} with targets of shape "
            f"{tuple(target.shape)}",
            hint="let the model return the shape of the target, for example through `out_features`",
        )


class Accuracy(SummedMetric):
    """Share of samples whose largest logit, along dimension 1, is the target class."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        predicted = prediction.argmax(dim=1)
        _refuse_broadcasting(predicted, target)
        hits = predicted == target
        return {"hits": precise(hits.sum()), "count": _count(hits)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return sums["hits"] / sums["count"]


class MeanAbsoluteError(SummedMetric):
    """Mean of `|prediction - target|` over all entries."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        error = _error(prediction, target).abs()
        return {"absolute": error.sum(), "count": _count(error)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return sums["absolute"] / sums["count"]


class RootMeanSquareError(SummedMetric):
    """Root of the mean squared difference over all entries."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        error = _error(prediction, target).square()
        return {"squared": error.sum(), "count": _count(error)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return (sums["squared"] / sums["count"]).sqrt()


class R2(SummedMetric):
    """Coefficient of determination: 1 - squared error / squared deviation of the targets from their mean."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        target = precise(target)
        return {
            "squared": _error(prediction, target).square().sum(),
            "target": target.sum(),
            "target_squared": target.square().sum(),
            "count": _count(target),
        }

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        deviation = sums["target_squared"] - sums["target"].square() / sums["count"]
        deviation = deviation.clamp(min=0)  # rounding must not make a perfect score of constant targets
        return 1 - sums["squared"] / deviation


class RelativeL2(SummedMetric):
    """Mean over samples of the Euclidean norm of the error divided by that of the target."""

    @staticmethod
    def sums(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        error = _error(prediction, target).reshape(len(target), -1).norm(dim=1)
        ratios = error / precise(target).reshape(len(target), -1).norm(dim=1)
        return {"ratios": ratios.sum(), "count": _count(ratios)}

    @staticmethod
    def value(sums: dict[str, Tensor]) -> Tensor:
        return sums["ratios"] / sums["count"]


METRICS: dict[str, type[SummedMetric]] = {
    "accuracy": Accuracy,
    "mae": MeanAbsoluteError,
    "rmse": RootMeanSquareError,
    "r2": R2,
    "relative-l2": RelativeL2,
}
