"""Common parts of the forms of an update that are not eager: giving way to eager updates, and the reasons for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from noether.core.models.base import ModelBase
from noether.optim.functional import is_wrapped
from noether.optim.model_optimizer import ModelOptimizer
from noether.training.state import TrainerParts
from noether.training.update import Substitute, Update

MOST_SHAPES = 4
"""Shapes of batches that get graphs; each takes time to make and memory. Batches of further shapes run eagerly."""

LOG = logging.getLogger("noether.trainers")
_OWN_UPDATE = "the trainer has an `update` of its own"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class UnfitError(Exception):
    """An update does not fit another form; the text says why, as the second half of a sentence."""


class AnotherForm(Substitute):
    """An update that does the work of an eager one by graphs, until it gives way to it.

    Args:
        plain: The eager update.
        looks_always: True if hooks of every update may change the model; otherwise only `look_again` says so.

    Attributes:
        reason: Reason why all later updates are eager, so that `form` is as well; None if they are not.
    """

    def __init__(self, plain: Update, *, looks_always: bool = False) -> None:
        super().__init__(plain)
        self.reason: str | None = None
        self._looks_always = looks_always
        self._has_to_look = True

    def give_way(self, reason: str) -> None:
        """Run all further updates eagerly, with one line that says why."""
        if self.reason is None:
            report_fallback(self.form, reason)
            self.form, self.reason = "eager", reason
            self._forget()

    def _forget(self) -> None:
        """Let all graphs go."""

    def look_again(self) -> None:
        """Look at what graphs have read before they are used again: hooks may have changed it."""
        self._has_to_look = True

    def take_optimizers(self, model: ModelBase) -> None:
        """Remember the optimizers of a model; graphs know those that they were made with."""
        super().take_optimizers(model)
        self.look_again()

    def _change(self) -> str | None:
        """Return the reason why graphs cannot be made or used any more."""
        if self._accumulate != self.accumulate:
            return _OWN_UPDATE
        if self._before_optimizer_step is not None:
            return "a hook reads gradients in before_optimizer_step"
        return None if self._model is None else hook_refusal(self._model, self._optimizers)

    def _holds(self) -> bool:
        """Return True if graphs may be used: hooks have changed nothing, otherwise the form gives way."""
        if self._looks_always:
            self.look_again()
        if self._has_to_look and (change := self._change()) is not None:
            self.give_way(change)
            return False
        self._has_to_look = False
        return True


def report_fallback(form: str, reason: str) -> None:
    """Log the line that says why updates are eager, though another form was asked for."""
    LOG.warning("updates are eager, not %s: %s", form, reason)


def common_refusal(trainer: TrainerParts, model: ModelBase) -> str | None:
    """Return the reason why a prepared trainer can only train a model eagerly; None if other forms may suit it."""
    if trainer.has_own_update:
        return _OWN_UPDATE
    if trainer.dispatch is not None and (readers := trainer.dispatch.order("before_optimizer_step")):
        return f"'{readers[0]}' reads gradients in before_optimizer_step"
    if any(one.traits.takes_closure for one in model.optimizers().values()):
        return "the optimizer evaluates the loss itself"
    return hook_refusal(model, model.optimizers().values())


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
