"""The hooks of a run, and marks on functions: specification, implementation, inherited no-op, interval.

The parameters of hooks are ordinary ones because pluggy does not see keyword-only parameters; implementations may
declare any subset of them, keyword-only or not, or take `**kwargs`. All of them run under `torch.no_grad()`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import pluggy

from noether.errors import PluginError
from noether.kernel.progress import Intervals, UpdateCounter

_MARK = "noether_every"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def every(
    *, epochs: int | None = None, updates: int | None = None, samples: int | None = None
) -> Callable[[_Function], _Function]:
    """Give a run plugin's `periodic_callback` its interval; it goes above or below `@noether.hookimpl`.

    Args:
        epochs: Epochs from one call to the next.
        updates: Updates from one call to the next.
        samples: Samples from one call to the next.

    Raises:
        PluginError: if not exactly one interval is given, or it is not a whole number of at least 1.
    """
    given = [(unit, n) for unit, n in (("epochs", epochs), ("updates", updates), ("samples", samples)) if n is not None]
    if len(given) != 1:
        raise PluginError(
            f"wrong number of intervals in @noether.every: found {len(given)}, expected exactly one",
            hint="@noether.every(epochs=1)",
        )
    unit, n = given[0]
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise PluginError(
            f"wrong interval in @noether.every: found {unit}={n!r}, expected a whole number of at least 1"
        )

    def mark(function: _Function) -> _Function:
        setattr(function, _MARK, Intervals(epochs, updates, samples))
        return function

    return mark


def interval_of(function: object) -> Intervals | None:
    """Return the interval that `@noether.every` gave a function, or None."""
    found = getattr(function, _MARK, None)
    return found if isinstance(found, Intervals) else None


PROJECT = "noether"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a run plugin as the implementation of the hook of its name: `@noether.hookimpl`."""

_NO_OP = "noether_inherited_no_op"
_WHEN_DUE = "noether_when_due"
GUARDED = "noether_guarded"
"""Mark of a hook with a context around it, which calls by hand need and the loop provides: the guard and the hook."""


def inherited_no_op(function: _Function) -> _Function:
    """Mark a base-class method that only documents a hook: inheriting it implements nothing."""
    setattr(function, _NO_OP, True)
    return function


def when_due(function: _Function) -> _Function:
    """Mark an `after_update` or `after_epoch` that acts only when its interval fires: other rounds skip it.

    Its object has a method `next_due_update(update_counter) -> int | None`.
    """
    setattr(function, _WHEN_DUE, True)
    return function


def is_inherited_no_op(function: object) -> bool:
    """Return True if `function` was marked with `inherited_no_op`."""
    return getattr(function, _NO_OP, False) is True


def unguarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a bound hook without its guard."""
    guard, hook = getattr(method, GUARDED, (None, None))
    if hook is None or getattr(method, "__func__", None) is not guard:
        return method
    return MethodType(hook, method.__self__)  # type: ignore[attr-defined]  # a bound method has it


def is_when_due(function: object) -> bool:
    """Return True if `function` was marked with `when_due`."""
    return getattr(function, _WHEN_DUE, False) is True


def static_attributes(target: object) -> dict[str, Any]:
    """Return the attributes of a module or object as they are defined: no property or `__getattr__` is called."""
    holders = [vars(owner) for owner in reversed(type(target).__mro__)]
    return {name: static for holder in (*holders, getattr(target, "__dict__", {})) for name, static in holder.items()}


def implementation_options(attribute: object) -> dict[str, Any] | None:
    """Return the options that `@noether.hookimpl` gave a function, or None if it was not decorated.

    Args:
        attribute: One of `static_attributes`. Only functions are inspected: another object may have a `__getattr__`
            of its own.
    """
    if not inspect.isroutine(attribute):
        return None
    options = getattr(getattr(attribute, "__func__", attribute), f"{PROJECT}_impl", None)
    return dict(options) if isinstance(options, dict) else None


def has_implementations(target: object) -> bool:
    """Return True if a function of a module or object is marked with `@noether.hookimpl`."""
    return any(implementation_options(found) is not None for found in static_attributes(target).values())


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
