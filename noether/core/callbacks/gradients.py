"""Hooks run without gradients, also where they are called by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def without_gradients(hook: Callable[P, T]) -> Callable[P, T]:
    """Run `hook` under `torch.no_grad()`; costs one question where gradients are off already, as in the loop."""

    @functools.wraps(hook)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_grad_enabled():
            return hook(*args, **kwargs)
        with torch.no_grad():
            return hook(*args, **kwargs)

    return call
