"""The losses of neuraloperator: relative errors of fields, in a mean over the samples and channels of a batch."""

from __future__ import annotations

from torch import Tensor


def lp(input: Tensor, target: Tensor, p: int = 2) -> Tensor:
    """Return the relative Lp error, `LpLoss` of neuraloperator: the norm of the error over that of the target.

    Args:
        input: Predicted fields, of shape (batch, channels, *grid).
        target: True fields of the same shape.
        p: Order of the norm.
    """
    from neuralop.losses import LpLoss

    return LpLoss(d=input.ndim - 2, p=p, reduction="mean").rel(input, target)


def h1(input: Tensor, target: Tensor, measure: float = 1.0, periodic: bool = True) -> Tensor:
    """Return the relative H1 error, `H1Loss` of neuraloperator: as `lp`, with the derivatives along the grid beside it.

    Args:
        input: Predicted fields, of shape (batch, channels, *grid), on a grid of one to three dimensions.
        target: True fields of the same shape.
        measure: Length of the domain along each dimension of the grid.
        periodic: True for fields that go on at the opposite edge, as they do for neuraloperator by default; False for
            one-sided differences at the edges.
    """
    from neuralop.losses import H1Loss

    edges = {"periodic_in_x": periodic, "periodic_in_y": periodic, "periodic_in_z": periodic}
    return H1Loss(d=input.ndim - 2, measure=measure, reduction="mean", **edges)(input, target)
