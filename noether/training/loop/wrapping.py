"""What a model is wrapped in for training: data parallelism first, then the compiler."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def wrap_ddp(model: nn.Module, *, find_unused_params: bool, static_graph: bool) -> nn.Module:
    """Return the model in `DistributedDataParallel` where there are several ranks, otherwise as it is."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return model
    return DistributedDataParallel(model, find_unused_parameters=find_unused_params, static_graph=static_graph)


def wrap_compile(model: nn.Module) -> nn.Module:
    """Return the model compiled; its parameters stay those of `model`."""
    return cast("nn.Module", torch.compile(model))
