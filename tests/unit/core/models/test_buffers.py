"""Buffers whose shape is decided while training, loaded into a new model."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noether.core.models.build import AdaptedModule
from noether.core.models.weights import load_weights, reshape_buffers
from noether.errors import CheckpointError


class Remembering(nn.Module):
    """Remembers each batch in buffers that begin empty, as None and with one row."""

    seen: Tensor
    first: Tensor | None
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(0, 3))
        self.register_buffer("first", None)
        self.register_buffer("rows", torch.zeros(1, 3))
        self.register_buffer("passing", None, persistent=False)
        self.inner = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x])
        self.first = x[0].long() if self.first is None else self.first
        self.rows = torch.cat([self.rows, x])
        return self.lin(x)


def used(model: Any) -> Any:
    model(torch.arange(6.0).view(2, 3))
    return model


@pytest.mark.parametrize("make", [Remembering, lambda: AdaptedModule(Remembering())], ids=["plain", "adapted"])
def test_a_new_model_takes_the_buffers_as_they_were_saved(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    saved, model = used(make()).state_dict(), make()
    with caplog.at_level(logging.WARNING):
        load_weights(model, saved, "there", hint="none")
    loaded = model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in saved.items()
    )
    assert [("rows" in line, "(3, 3)" in line) for line in caplog.messages] == [(True, True)]


def test_a_buffer_that_stayed_none_stays_none() -> None:
    model = Remembering()
    load_weights(model, Remembering().state_dict(), "there", hint="none")
    assert model.first is None
    assert "passing" in model._buffers and model.passing is None


def test_weights_from_elsewhere_do_not_reshape_buffers_that_begin_with_values() -> None:
    model = Remembering()
    reshape_buffers(model, used(Remembering()).state_dict(), filled=False)
    assert (model.seen.shape, model.rows.shape) == ((2, 3), (1, 3))


def test_parameters_of_another_shape_are_refused_still() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_weights(Remembering(), {**Remembering().state_dict(), "lin.bias": torch.ones(2)}, "there", hint="none")
    assert "lin.bias (2,) instead of (1,)" in caught.value.message


def test_an_expanded_parameter_is_loaded() -> None:
    model, saved = nn.Linear(2, 2), nn.Linear(2, 2)
    model.bias = nn.Parameter(torch.ones(1).expand(2), requires_grad=False)
    load_weights(model, saved.state_dict(), "there", hint="none")
    assert torch.equal(model.bias, saved.bias)
