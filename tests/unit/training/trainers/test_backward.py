"""A backward pass without torch's wrappers gives the gradients, and the errors, of `loss.backward()`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from noether.training.trainers.types import run_backward


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.BatchNorm1d(8), nn.Linear(8, 1))


def loss_of(model: nn.Module) -> Tensor:
    return model(torch.linspace(-1.0, 1.0, 12).reshape(4, 3)).square().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradients_have_the_same_bits_over_several_passes(dtype: torch.dtype) -> None:
    ours, theirs = network().to(dtype), copy.deepcopy(network()).to(dtype)
    batch = torch.linspace(-1.0, 1.0, 12, dtype=dtype).reshape(4, 3)
    for _ in range(3):
        run_backward(ours(batch).square().mean())
        theirs(batch).square().mean().backward()  # type: ignore[no-untyped-call]
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_a_graph_is_kept_only_if_that_was_asked_for() -> None:
    loss = loss_of(network())
    run_backward(loss, retain_graph=True)
    run_backward(loss)
    with pytest.raises(RuntimeError, match="second time"):
        run_backward(loss)


def test_hooks_of_tensors_and_parameters_are_called() -> None:
    model, seen = network(), []
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: seen.append(gradient.shape))
        parameter.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.shape))
    run_backward(loss_of(model))
    assert len(seen) == 2 * len(list(model.parameters()))


def test_a_gradient_that_shares_memory_with_the_first_one_changes_no_later_pass() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    for _ in range(2):
        weight.grad = None
        run_backward(weight.sum())
        assert weight.grad is not None and weight.grad.item() == 1.0
        weight.grad.mul_(0.5)  # as clipping does


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (torch.ones(2, requires_grad=True) * 2, "only for scalar outputs"),
        (torch.ones((), dtype=torch.complex64, requires_grad=True) * 2, "only for real scalar outputs"),
        (torch.ones(()), "does not require grad"),
    ],
    ids=["several numbers", "complex", "no graph"],
)
def test_a_loss_that_cannot_be_differentiated_gets_the_error_of_torch(loss: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run_backward(loss)


class Shy(Tensor):
    """A tensor whose backward pass is of its own."""

    calls = 0

    def backward(self, *_: object, **__: object) -> None:  # type: ignore[override]
        """Count the calls."""
        type(self).calls += 1


def test_a_subclass_of_tensor_has_the_backward_pass_of_its_own() -> None:
    run_backward(torch.ones(()).as_subclass(Shy))
    assert Shy.calls == 1
