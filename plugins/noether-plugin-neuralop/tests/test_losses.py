"""The losses are those of neuraloperator, in a mean over samples and channels."""

import pytest
import torch
from neuralop.losses import H1Loss, LpLoss
from noether_plugin_neuralop.losses import h1, lp


@pytest.fixture(params=[(16,), (8, 12), (6, 6, 6)], ids=["1d", "2d", "3d"])
def fields(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 2, *request.param), torch.randn(4, 2, *request.param)


def test_lp_is_a_mean_of_relative_norms(fields: tuple[torch.Tensor, torch.Tensor]):
    predicted, true = fields
    ratios = (predicted - true).flatten(2).norm(dim=2) / true.flatten(2).norm(dim=2)
    assert lp(predicted, true).item() == pytest.approx(ratios.mean().item(), rel=1e-5)
    assert lp(predicted, true, p=1) == LpLoss(d=true.ndim - 2, p=1, reduction="mean")(predicted, true)


def test_h1_adds_the_derivatives(fields: tuple[torch.Tensor, torch.Tensor]):
    predicted, true = fields
    assert h1(predicted, true) == H1Loss(d=true.ndim - 2, reduction="mean")(predicted, true)
    assert h1(true + 1, true) < lp(true + 1, true)  # a constant has no derivative


def test_edges_of_a_field_that_is_not_periodic_are_one_sided():
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16).contiguous()
    assert h1(0.9 * ramp, ramp, periodic=False).item() == pytest.approx(0.1, rel=1e-4)
    wave = torch.sin(torch.arange(16) * torch.pi / 8).expand(1, 1, 16, 16).contiguous()
    shifted = wave.roll(1, dims=-1)
    assert h1(shifted, wave, periodic=True) != h1(shifted, wave, periodic=False)
