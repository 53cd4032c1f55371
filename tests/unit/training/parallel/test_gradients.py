"""Gradients and losses of several ranks: those of their samples together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from noether.errors import TrainingError
from noether.training.parallel.gradients import FlatGradients, over_ranks

TYPES = [torch.float32, torch.float64, torch.complex64, torch.bfloat16]


def drawn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def exchanged(rank: Any, gradients: dict[str, Tensor | None], loss: float = 0.0) -> tuple[dict[str, Any], Tensor]:
    """Return the gradients of one rank, and the loss, after an exchange."""
    named = []
    for name, gradient in gradients.items():
        like = torch.zeros(3) if gradient is None else gradient
        parameter = Parameter(torch.zeros_like(like))
        parameter.grad = None if gradient is None else gradient.clone()
        named.append((name, parameter))
    shown = FlatGradients(rank, named, reads=False)(torch.tensor(loss))
    return {name: parameter.grad for name, parameter in named}, shown


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_rank_gets_the_mean_of_all_gradients_and_losses(in_threads: Any, world: int) -> None:
    own = [
        {f"{dtype} {size}": drawn((size, 2), 10 * rank + size, dtype) for dtype in TYPES for size in (1, 3)}
        for rank in range(world)
    ]
    ends = in_threads(world, lambda rank: exchanged(rank, own[rank.rank], loss=float(rank.rank)))
    for found, loss in ends:
        assert float(loss) == pytest.approx((world - 1) / 2)
        for name, gradient in found.items():
            assert gradient.dtype == own[0][name].dtype
            torch.testing.assert_close(gradient, sum(each[name] for each in own) / world)


def test_all_ranks_have_the_same_bits_whatever_the_order_of_parameters(in_threads: Any) -> None:
    own = [{name: drawn((7,), 5 * rank + place) for place, name in enumerate("bca")} for rank in range(3)]
    ends = in_threads(3, lambda rank: exchanged(rank, own[rank.rank])[0])
    other = in_threads(3, lambda rank: exchanged(rank, dict(sorted(own[rank.rank].items())))[0])
    for found in [*ends, *other]:
        assert all(torch.equal(found[name], ends[0][name]) for name in "abc")


def test_a_gradient_that_a_rank_lacks_counts_as_zero_and_one_that_all_lack_stays_away(in_threads: Any) -> None:
    own: list[dict[str, Tensor | None]] = [
        {"both": torch.ones(3), "one": torch.ones(3), "none": None},
        {"both": torch.ones(3), "one": None, "none": None},
    ]
    for found, _ in in_threads(2, lambda rank: exchanged(rank, own[rank.rank])):
        assert found["both"].tolist() == [1.0] * 3
        assert found["one"].tolist() == [0.5] * 3
        assert found["none"] is None


def test_what_a_parameter_had_before_is_not_added_when_it_has_none(in_threads: Any) -> None:
    def on_a_rank(rank: Any) -> list[Any]:
        parameter = Parameter(torch.zeros(2))
        exchange = FlatGradients(rank, [("w", parameter)], reads=False)
        found = []
        for gradient in (torch.ones(2), None, 2 * torch.ones(2)):
            parameter.grad = gradient
            exchange(torch.tensor(0.0))
            found.append(None if parameter.grad is None else parameter.grad.tolist())
        return found

    assert in_threads(2, on_a_rank) == [[[1.0, 1.0], None, [2.0, 2.0]]] * 2


def test_a_loss_that_is_not_finite_on_one_rank_is_not_finite_on_all(in_threads: Any) -> None:
    ends = in_threads(2, lambda rank: exchanged(rank, {"w": torch.ones(3)}, loss=[1.0, float("nan")][rank.rank])[1])
    assert all(loss.isnan() for loss in ends)


def test_a_sparse_gradient_is_refused(in_threads: Any) -> None:
    def on_a_rank(rank: Any) -> None:
        layer = nn.Embedding(3, 2, sparse=True)
        torch.autograd.backward(layer(torch.tensor([1])).sum())
        FlatGradients(rank, list(layer.named_parameters()), reads=False)(torch.tensor(0.0))

    with pytest.raises(TrainingError):
        in_threads(2, on_a_rank)


def shown(in_threads: Any, losses: list[dict[str, float]], weights: list[Any]) -> tuple[dict[str, float], Any]:
    """Return the losses and weights that every rank has of those of each."""

    def on_a_rank(rank: Any) -> Any:
        own = {name: torch.tensor(value) for name, value in losses[rank.rank].items()}
        return over_ranks(rank, own, weights[rank.rank])

    ends = in_threads(len(losses), on_a_rank)
    found, counts = ends[0]
    assert all(end[0] == found for end in ends)
    return {name: float(value) for name, value in found.items()}, counts


def test_losses_without_counts_are_means_over_ranks(in_threads: Any) -> None:
    found, counts = shown(in_threads, [{"total": 1.0, "a": 1.0}, {"total": 3.0, "a": 2.0}], [None, None])
    assert (found, counts) == ({"total": 2.0, "a": 1.5}, None)


def test_losses_are_weighted_by_their_counts_and_sums_are_added_up(in_threads: Any) -> None:
    losses = [{"total": 5.0, "mean": 1.0, "sum": 4.0}, {"total": 9.0, "mean": 3.0, "sum": 6.0}]
    weights = [{"mean": 30.0, "sum": None}, {"mean": torch.tensor(10), "sum": None}]
    found, counts = shown(in_threads, losses, weights)
    assert (found["mean"], found["sum"]) == (1.5, 10.0)
    assert found["total"] == pytest.approx(11.5)
    assert (float(counts["mean"]), counts["sum"]) == (40.0, None)


def test_a_rank_without_valid_values_counts_nothing(in_threads: Any) -> None:
    losses = [{"total": 2.0}, {"total": float("nan")}]
    found, counts = shown(in_threads, losses, [{"total": 4.0}, {"total": 0.0}])
    assert (found["total"], float(counts["total"])) == (2.0, 4.0)
