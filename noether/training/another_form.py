"""Common parts of the forms of an update that are not eager: the reasons against them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from noether.optim.functional import is_wrapped
from noether.optim.model_optimizer import ModelOptimizer

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hook_refusal(model: nn.Module, optimizers: Iterable[ModelOptimizer]) -> str | None:
    """Return the first hook of torch that only an eager update calls, as the second half of a sentence; None if none.

    Args:
        model: The model.
        optimizers: Its optimizers.
    """
    if _has_any_global_hook():  # type: ignore[no-untyped-call]  # torch's own
        return "all modules have hooks"
    for name, module in model.named_modules():
        if any(getattr(module, hooks) for hooks in _HOOKS):
            return f"module '{name or type(module).__name__}' has hooks"
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"parameter '{name}' has a hook on its gradient"
    kinds = [type(one.torch_optimizer).__name__ for one in optimizers if is_wrapped(one.torch_optimizer)]
    return f"{kinds[0]} has hooks around its optimizer step" if kinds else None
