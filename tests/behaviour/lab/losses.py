"""Losses of the project."""

import torch


def fourth_power(input, target):
    return (input - target).pow(4).mean()


def nan_at_nines(input, target):
    """A loss that is NaN for batches that hold a target of 9."""
    return torch.where((target == 9).any(), torch.nan, (input - target).square().mean())


def infinite_gradient(input, target):
    """A finite loss with a gradient that is not: the derivative of the root at zero."""
    return (input * 0).abs().sqrt().sum() + (target - target).mean()


def broken(input, target):
    return {}["no such key"]


def not_a_loss(prediction):
    return prediction


def a_float(input, target):
    return (input - target).square().mean().item()
