"""Batch norms of several ranks: outputs, gradients and running statistics are those of torch's over the whole batch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from noether.training.parallel.gradients import RanksBatchNorm, of_all_ranks

KINDS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
"""By the number of dimensions after the features."""


def passed(norm: nn.Module, inputs: list[torch.Tensor], pulls: list[torch.Tensor]) -> dict[str, Any]:
    """Return the last output and input gradient of some passes, and what they leave in the norm."""
    for values, pull in zip(inputs, pulls, strict=True):
        leaf = values.clone().requires_grad_()
        output = norm(leaf)
        torch.autograd.backward(output, pull)
    return {
        "output": output.detach(),
        "input": leaf.grad,
        "parameters": [parameter.grad for parameter in norm.parameters()],
        "buffers": dict(norm.named_buffers()),
    }


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1),
    features=st.integers(1, 4),
    dims=st.integers(0, 3),
    options=st.fixed_dictionaries(
        {
            "affine": st.booleans(),
            "track_running_stats": st.booleans(),
            "momentum": st.sampled_from([0.1, 1.0, None]),
            "eps": st.sampled_from([1e-5, 1e-2]),
        }
    ),
    mean=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 2**16),
)
def test_it_is_the_batch_norm_of_the_joined_batch(
    in_threads: Any, sizes: list[int], features: int, dims: int, options: dict[str, Any], mean: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    norm = KINDS[dims](features, **options).double()
    for parameter in norm.parameters():
        parameter.data.uniform_(0.5, 2.0, generator=generator)
    shape = (sum(sizes), features, *range(2, 2 + dims))
    inputs, pulls = ([torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)] for _ in range(2))
    inputs = [values + mean for values in inputs]
    whole = passed(deepcopy(norm), inputs, pulls)

    def on_a_rank(rank: Any) -> dict[str, Any]:
        own = deepcopy(norm)
        of_all_ranks(own, rank)
        assert type(own) is RanksBatchNorm
        return passed(own, *([values.split(sizes)[rank.rank] for values in each] for each in (inputs, pulls)))

    parts = in_threads(len(sizes), on_a_rank)
    # Two samples that hardly differ have a variance of few exact digits beside a mean of 100.
    close = {"rtol": 1e-6, "atol": 1e-7}
    for name in ("output", "input"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name], **close)
    for place, gradient in enumerate(whole["parameters"]):  # the exchange of gradients adds them up
        torch.testing.assert_close(sum(part["parameters"][place] for part in parts), gradient, **close)
    for part in parts:
        torch.testing.assert_close(part["buffers"], whole["buffers"], **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_have_the_type_of_the_input(in_threads: Any, dtype: torch.dtype) -> None:
    def on_a_rank(rank: Any) -> list[torch.dtype]:
        norm = nn.BatchNorm1d(2, dtype=dtype)
        of_all_ranks(norm, rank)
        leaf = torch.randn(4, 2, dtype=dtype, generator=torch.Generator().manual_seed(rank.rank)).requires_grad_()
        output = norm(leaf)
        torch.autograd.backward(output.sum())
        return [output.dtype, leaf.grad.dtype, *(parameter.grad.dtype for parameter in norm.parameters())]

    assert in_threads(2, on_a_rank) == [[dtype] * 4] * 2


def test_it_evaluates_as_torch_does(in_threads: Any) -> None:
    values = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))

    def on_a_rank(rank: Any) -> torch.Tensor:
        norm = nn.BatchNorm1d(2).eval()
        of_all_ranks(norm, rank)
        return norm(values)

    for found in in_threads(2, on_a_rank):
        assert torch.equal(found, nn.BatchNorm1d(2).eval()(values))


def test_names_and_objects_of_a_model_stay(in_threads: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    norm, names = model[1], list(model.state_dict())
    of_all_ranks(model, in_threads(1, lambda rank: rank)[0])
    assert model[1] is norm
    assert list(model.state_dict()) == names


def test_a_batch_norm_with_a_forward_pass_of_its_own_stays() -> None:
    class Own(nn.BatchNorm1d):
        pass

    model = nn.Sequential(Own(2))
    of_all_ranks(model, None)  # type: ignore[arg-type]  # nobody asks it
    assert type(model[0]) is Own
