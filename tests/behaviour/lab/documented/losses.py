"""Losses of the documentation."""

import torch


def weighted_huber(input, target):
    weight = torch.tensor([2.0, 1.0])
    return (weight * torch.nn.functional.huber_loss(input, target, reduction="none")).mean()
