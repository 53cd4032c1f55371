"""Training and evaluation modes of modules: switch to evaluation, give each module its own mode back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models in evaluation mode; afterwards give each module the mode that it had before, also after an error.

    One flag for a whole model is not enough: a frozen backbone that its constructor has put in evaluation mode stays
    in it. Nothing is called on a model whose modules are all in evaluation mode already.

    Args:
        *models: The models; parts that they share are switched once.
    """
    modes = {module: module.training for model in models for module in model.modules()}
    if not any(modes.values()):
        yield
        return
    former = [(model, model.training) for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, mode in former:
            model.train(mode)  # modules may override it, to merge adapters for example
        for module, mode in modes.items():
            if module.training is not mode:
                module.training = mode
