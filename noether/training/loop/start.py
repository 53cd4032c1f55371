"""Where a run begins and ends, and what its model is trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noether.core.models.base import ModelBase
from noether.data.samplers.training_order import updates_per_epoch
from noether.errors import SpecError
from noether.kernel.progress import TrainingIteration, UpdateCounter

if TYPE_CHECKING:
    from noether.training.trainers.config import BaseTrainerConfig


def starting_counter(config: BaseTrainerConfig[Any], samples: int) -> UpdateCounter:
    """Return a counter at the beginning of the run that `config` describes.

    Args:
        config: The trainer's config.
        samples: Size of the training set.

    Raises:
        DataError: The training set is smaller than one effective batch.
        SpecError: `start_at_epoch` lies after the end.
    """
    size = config.effective_batch_size
    per_epoch = updates_per_epoch(samples, size)
    epoch = config.start_at_epoch or 0
    start = TrainingIteration(epoch, epoch * per_epoch, epoch * per_epoch * size)
    counter = UpdateCounter(start, config.end_iteration, per_epoch, size)
    if counter.update > counter.end_update:
        raise SpecError(
            f"start_at_epoch = {epoch} begins at update {counter.update}, after the run's last one, "
            f"{counter.end_update}",
            hint="lower start_at_epoch or raise the limit",
        )
    return counter


def give_optimizers(model: ModelBase, counter: UpdateCounter) -> None:
    """Build the model's optimizers for a run of this length, unless it was given some by hand.

    Raises:
        SpecError: Nothing in the model is trainable.
    """
    span = (counter.end_update, counter.updates_per_epoch)
    known = model.optimizers().values()
    if not counter.end_update or (known and all(optimizer.built_for in (None, span) for optimizer in known)):
        return
    model.initialize_optimizer(total_updates=span[0], updates_per_epoch=span[1])
    if not model.optimizers():
        raise SpecError("the model has no trainable parameters", hint="loosen `frozen` under [model]")
