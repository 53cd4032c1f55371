"""Forms of an update (eager, compiled, one graph): the form of a run, and the reasons against faster ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noether.core.models.base import ModelBase
from noether.errors import CheckpointError
from noether.training import another_form, compiled, graph
from noether.training.state import TrainerParts
from noether.training.update import Update

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Form:
    """A form of an update.

    Attributes:
        name: Value of `update` under [trainer] that asks for it.
        equals_eager: True if its results equal the eager ones bit for bit: a resume may change from or to eager.
        refusal: Return the reason why a prepared trainer cannot train a model in this form, as the second half of a
            sentence ("not compiled: …"); None if it can.
        build: Return the update that takes the place of the eager one. It has that one as its attribute `plain`, and
            its own name as `form`.
        is_automatic: True if `auto` may choose it, which takes results that equal the eager ones.
    """

    name: str
    equals_eager: bool
    refusal: Callable[[TrainerParts, ModelBase], str | None]
    build: Callable[[TrainerParts, Update, ModelBase], Update]
    is_automatic: bool = False


EAGER = Form("eager", True, lambda trainer, model: None, lambda trainer, update, model: update)
GRAPH = Form("graph", True, graph.refusal, graph.build)  # not automatic until it has run on a device
COMPILED = Form("compiled", False, compiled.refusal, compiled.build)
FORMS: tuple[Form, ...] = (GRAPH, COMPILED, EAGER)
"""All forms, the fastest first; the last one is always possible."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The form that a run uses.

    Attributes:
        asked: Value of `update` under [trainer].
        form: The form.
        reasons: Reason against each faster form, by name.
    """

    asked: str
    form: Form
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_fallback(self) -> bool:
        """True if another form was asked for by name."""
        return self.asked not in (AUTO, self.form.name)


def choose(asked: str, trainer: TrainerParts, model: ModelBase, *, explain: bool = False) -> Choice:
    """Return the fastest form that is asked for and possible.

    `auto` asks for forms whose results equal the eager ones bit for bit. A form that is not possible gives way to the
    eager one: a run that begins may do that, and a run that continues keeps the form of its checkpoint.

    Args:
        asked: Value of `update` under [trainer].
        trainer: The trainer, its optimizers, callbacks and hooks built.
        model: The model, unwrapped.
        explain: True to find out as well if forms that were not asked for are possible.
    """
    reasons = {} if asked in (AUTO, *(form.name for form in FORMS)) else {asked: "this version does not have it"}
    for form in FORMS:
        is_asked = form is EAGER or asked == form.name or (asked == AUTO and form.is_automatic)
        reason = _refusal(form, trainer, model) if is_asked or explain else None
        if reason is None and is_asked:
            return Choice(asked, form, reasons)
        reasons[form.name] = reason or _not_asked(asked, form)
    raise AssertionError("the eager form is always possible")


def _refusal(form: Form, trainer: TrainerParts, model: ModelBase) -> str | None:
    if trainer.parallel.world > 1 and form is not EAGER:
        return (
            f"the run has {trainer.parallel.world} ranks, which exchange gradients between backward pass and optimizer"
        )
    return form.refusal(trainer, model)


def _not_asked(asked: str, form: Form) -> str:
    if asked != AUTO:
        return f'possible, but update = "{asked}" does not ask for it'
    why = "it has not been proven on a device" if form.equals_eager else "its results differ in rounding"
    return f'possible with update = "{form.name}"; auto does not choose it, as {why}'


def report_fallback(choice: Choice) -> None:
    """Log one line if the form that was asked for is not the one that is used."""
    if choice.is_fallback:
        another_form.report_fallback(choice.asked, choice.reasons[choice.asked])


def form_state(trainer: TrainerParts) -> dict[str, Any]:
    """Return the form of the next update, and the one that was asked for, for a checkpoint."""
    return {"asked": trainer.config.update, **trainer.one_update.form_state()}


def restore_form(trainer: TrainerParts, state: Mapping[str, Any] | None) -> None:
    """Go on in the form of a checkpoint, unless the run asks for another one now.

    Args:
        trainer: The trainer, prepared for training.
        state: Return value of `form_state`; None for a checkpoint without it.

    Raises:
        CheckpointError: if the run was trained in a form that is not possible here, and other results would follow.
    """
    choice = trainer.update_form
    if choice is None or state is None or state["asked"] != choice.asked:
        return
    update, saved = trainer.one_update, state["form"]
    if saved == choice.form.name or choice.form is not EAGER:
        update.take_form(state)
    elif not next((form.equals_eager for form in FORMS if form.name == saved), False):
        raise CheckpointError(
            f"resume refused: found updates of the form '{choice.form.name}', expected '{saved}' as in the checkpoint: "
            f"{choice.reasons.get(saved, 'it is not known here')}",
            hint="resume where that form is possible; or add -s trainer.update=eager --allow-spec-change, which "
            "continues with other roundings",
        )
