"""The parts of a composite model that a callback saves: `model_names`."""

from __future__ import annotations

from collections.abc import Sequence

from noether.core.models.base import ModelBase
from noether.errors import SpecError


def check_parts(names: Sequence[str] | None, model: ModelBase, *, callback_id: str) -> None:
    """Check, before training, that the parts that are to be saved exist.

    Args:
        names: The callback's `model_names`.
        model: The model that is trained.
        callback_id: Whose setting it is.

    Raises:
        SpecError: `model_names` names something that the model has not.
    """
    unknown = set(names or ()) - model.submodels.keys()
    if unknown:
        raise SpecError(
            f"callback '{callback_id}': model_names names {sorted(unknown)}, which the model has not",
            hint=f"its parts are {', '.join(model.submodels)}",
        )


def parts_to_save(names: Sequence[str] | None, model: ModelBase) -> Sequence[str] | None:
    """Return the parts to ask a checkpoint for: None for all of them, so that naming each is a save of the whole."""
    if names is not None and set(names) >= model.submodels.keys():
        return None
    return names
