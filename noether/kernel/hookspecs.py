"""The hooks of a run: their arguments and the moments at which they fire.

The parameters are ordinary ones because pluggy does not see keyword-only parameters; implementations may
declare any subset of them, keyword-only or not, or take `**kwargs`. All of them run under `torch.no_grad()`.
"""

from __future__ import annotations

import inspect
from typing import Any

from noether.kernel.markers import PROJECT, hookspec
from noether.kernel.progress import UpdateCounter

# Arguments whose classes belong to upper layers are typed `Any`: the kernel must not name them.


@hookspec
def configure_spec(spec: Any) -> None:
    """Fires when the spec is valid and nothing is built yet; the last hook that may change the spec."""


@hookspec
def run_started(run: Any) -> None:
    """Fires when the run is assembled and its folder exists, before `before_training`."""


@hookspec
def before_training(update_counter: UpdateCounter) -> None:
    """Fires once before the first update."""


@hookspec
def before_optimizer_step(update_counter: UpdateCounter, model: Any) -> None:
    """Fires on the last accumulation step, when gradients are unscaled and not yet clipped."""


@hookspec
def track_after_accumulation_step(
    update_counter: UpdateCounter,
    batch: Any,
    losses: Any,
    update_outputs: Any,
    accumulation_steps: int,
    accumulation_step: int,
) -> None:
    """Fires after each batch, before the counters advance; `losses` holds `total` and the named losses.

    Also for an update that is not applied, because it is not finite: `trainer.applied` is 0.0 on the device then.
    """


@hookspec
def track_after_update_step(update_counter: UpdateCounter, times: dict[str, float]) -> None:
    """Fires after each applied update, when the counters have advanced; `times` holds the seconds of its parts.

    If only the device knows that an update is not applied, it fires for that update as well.
    """


@hookspec
def after_update(update_counter: UpdateCounter, trainer_model: Any, data_iter: Any, batch_size: int) -> None:
    """Fires after each update, after all tracking: the moment of intervals in updates and samples."""


@hookspec
def after_epoch(update_counter: UpdateCounter, trainer_model: Any, data_iter: Any, batch_size: int) -> None:
    """Fires at the end of each epoch, after `after_update`: the moment of intervals in epochs."""


@hookspec
def periodic_callback(
    interval_type: str, update_counter: UpdateCounter, trainer_model: Any, data_iter: Any, batch_size: int
) -> None:
    """Fires when its owner's interval does; `interval_type` is "epoch", "update", "sample" or "eval"."""


@hookspec
def at_eval(update_counter: UpdateCounter, trainer_model: Any, data_iter: Any, batch_size: int) -> None:
    """Fires once in a run that only evaluates."""


@hookspec
def checkpoint_committed(run: Any, checkpoint: Any) -> None:
    """Fires at the first boundary at which a checkpoint exists completely on the disk.

    With asynchronous saves, that is some updates after the update whose state the checkpoint holds.
    """


@hookspec
def after_training(update_counter: UpdateCounter) -> None:
    """Fires once after the last update, also if a stopper ended training."""


@hookspec
def run_finished(run: Any, outcome: Any) -> None:
    """Fires at the very end, also after a failure; `outcome` has the status of the run and its error."""


HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(function).parameters)
    for name, function in list(globals().items())
    if hasattr(function, f"{PROJECT}_spec")
}
"""Names of the arguments of each hook, in the order of its specification."""
