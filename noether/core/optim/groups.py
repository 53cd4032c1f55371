"""Parameter groups: which parameters decay, and which do not train at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float, decay_bias_and_norm: bool
) -> list[dict[str, Any]]:
    """Split trainable parameters into those that weight decay acts on and those that it leaves alone.

    Parameters with fewer than two dimensions (biases, scales of norms) are not decayed, unless asked for: shrinking
    them towards zero regularises nothing and hurts normalised layers.

    Returns:
        Groups in the form that torch optimizers take, each with its parameter names under `"names"`.
    """
    trainable = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    decays = [decay_bias_and_norm or parameter.ndim >= 2 or not weight_decay for _, parameter in trainable]
    groups = []
    for decayed in (True, False):
        members = [pair for pair, flag in zip(trainable, decays, strict=True) if flag is decayed]
        if members:
            group: dict[str, Any] = {
                "params": [p for _, p in members],
                "names": [name for name, _ in members],
            }
            if not decayed:
                group["weight_decay"] = 0.0
            groups.append(group)
    return groups
