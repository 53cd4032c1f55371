"""Losses of the project."""

import torch

from noether.training.trainers import Counted


def fourth_power(input, target):
    return (input - target).pow(4).mean()


def nan_at_nines(input, target):
    """A loss that is NaN for batches that hold a target of 9."""
    return torch.where((target == 9).any(), torch.nan, (input - target).square().mean())


def nan_at_one_sample(input, target):
    """A loss that is NaN for batches with the seventh training sample of `lab.data.Noisy`."""
    seventh = (target[:, 0] == 6 / 40) & (target[:, 1] == 0)
    return torch.where(seventh.any(), torch.nan, (input - target).square().mean())


def infinite_gradient(input, target):
    """A finite loss with a gradient that is not: the derivative of the root at zero."""
    return (input * 0).abs().sqrt().sum() + (target - target).mean()


def summed(input, target):
    return (input - target).square().sum()


def summed_and_counted(input, target):
    return Counted(summed(input, target), "sum")


def of_four(input, target):
    if len(input) != 4:
        raise ValueError(f"found {len(input)} samples, expected 4")
    return (input - target).square().mean()


def broken(input, target):
    return {}["no such key"]


def not_a_loss(prediction):
    return prediction


def of_points(input, target, mask, power: float = 2.0):
    """A mean over the valid points of padded batches."""
    return Counted((input - target).abs().pow(power)[mask].mean(), mask.sum())


def a_float(input, target):
    return (input - target).square().mean().item()


def out_of_memory_in_update_3(input, target):
    """A loss that finds no room on the device in the third update."""
    out_of_memory_in_update_3.calls += 1
    if out_of_memory_in_update_3.calls == 3:
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")
    return (input - target).square().mean()


out_of_memory_in_update_3.calls = 0
