"""Exceptions in hooks: a stop that lets the other implementations run first, and notes that name the culprit."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from noether.errors import TrainingError, notes_of, text_of
from noether.kernel.participant import Implementation
from noether.kernel.progress import EarlyStopIteration

_STARTS = ("raised by ", "interrupted ", "read by ")
_ELSEWHERE = "_noether_raised_elsewhere"
_ENDS_A_LOOP = (StopIteration, StopAsyncIteration, GeneratorExit)
_Raised = TypeVar("_Raised", bound=BaseException)


class Interruption(BaseException):
    """Raised in code that is not to blame for it.

    Derives from `BaseException`, so that no `except Exception` of a callback takes it for a failure of its own.
    """


def not_by_a_hook(error: _Raised) -> _Raised:
    """Mark an error of the data, so that the callback that reads them is not blamed for it; return the error."""
    vars(error)[_ELSEWHERE] = True  # its class may refuse attributes
    return error


def note(error: BaseException, text: str) -> None:
    """Add a note to an exception of any class.

    Raises:
        TrainingError: in place of an exception that takes no note, or that ends a loop or a generator on its way out.
    """
    if not isinstance(error, _ENDS_A_LOOP):
        try:
            error.add_note(text)
        except Exception:  # its class is anyone's: a frozen dataclass refuses every attribute
            pass
        else:
            return
    hint = "raise an exception that stands for an error; this one ends a loop or a program"
    said = text_of(error)
    replacement = TrainingError(
        f"{type(error).__name__}{f': {said}' if said else ''}{_place_of(error)}",
        hint=hint if isinstance(error, _ENDS_A_LOOP) else None,
    )
    replacement.add_note(text)
    raise replacement from error


def _place_of(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    return f" ({frame[0].filename}:{frame[0].lineno})" if frame else ""


def add_note(error: BaseException, implementation: Implementation, update_counter: Any) -> None:
    """Add `raised by callback 'ema' (kind ema, noether-train 0.1.0) in hook after_update at update 120`."""
    update = getattr(update_counter, "update", None)
    where = f" at update {update}" if isinstance(update, int) else ""
    start = "interrupted " if isinstance(error, (Interruption, KeyboardInterrupt)) else "raised by "
    start = "read by " if _ELSEWHERE in vars(error) else start
    note(error, f"{start}{implementation.participant.description} in hook {implementation.hook}{where}")


def add_first_note(error: BaseException, implementation: Implementation, update_counter: Any) -> None:
    """Add the note unless the exception reached a wrapper from inside, with a note already."""
    if not any(known.startswith(_STARTS) for known in notes_of(error)):
        add_note(error, implementation, update_counter)


OnStop = Callable[[str], object]
"""Takes the reason to end training, with its source: `loss has not improved for 6 intervals (callback 'stopper')`."""


def first_stop(
    known: EarlyStopIteration | None, stop: EarlyStopIteration, implementation: Implementation, update_counter: Any
) -> EarlyStopIteration:
    """Return the earlier of two stops; if this is the first one, note its implementation.

    The traceback is dropped: it holds the arguments of the hook, and the stop outlives the call.
    """
    if known is not None:
        return known
    add_note(stop, implementation, update_counter)
    stop.source = stop.source or str(implementation.participant)
    return stop.with_traceback(None)


def raise_stop(stop: EarlyStopIteration) -> None:
    """Raise a stop: the end of a hook without a receiver of stops."""
    raise stop


def report_to(on_stop: OnStop | None) -> Callable[[EarlyStopIteration], object]:
    """Return the function that reports a stop at the end of a hook; without `on_stop` it raises the stop."""
    if on_stop is None:
        return raise_stop
    return lambda stop: on_stop(f"{stop.reason} ({stop.source})")


class KeptStops:
    """The first stop during a call that goes through pluggy, which cannot keep it.

    Args:
        on_stop: As in `compile_dispatch`.
    """

    def __init__(self, on_stop: OnStop | None) -> None:
        self._report = report_to(on_stop)
        self._first: EarlyStopIteration | None = None

    def keep(self, stop: EarlyStopIteration, implementation: Implementation, update_counter: Any) -> None:
        """Remember a stop until the end of the call."""
        self._first = first_stop(self._first, stop, implementation, update_counter)

    def call(self, caller: Callable[..., Any], **arguments: Any) -> Any:
        """Call a hook, then report the stop that was kept meanwhile; a hook may be called within another."""
        outer, self._first = self._first, None
        try:
            results = caller(**arguments)
            stop = self._first
        finally:
            self._first = outer
        if stop is not None:
            self._report(stop)
        return results


def going_on(
    wrapper: Generator[Any, Any, Any], keep: Callable[[EarlyStopIteration], None]
) -> Generator[None, Any, Any]:
    """Drive a wrapper so that its own stop is kept, while the calls that it wraps are made and their results returned.

    Args:
        wrapper: The generator, not yet started.
        keep: Takes the stop.
    """
    try:
        next(wrapper)
    except StopIteration:
        return None  # pluggy reports the missing yield
    except EarlyStopIteration as stop:
        keep(stop)
        return (yield)
    results = None
    try:
        try:
            results = yield
        except BaseException as error:
            wrapper.throw(error)
        else:
            wrapper.send(results)
    except StopIteration as end:
        return end.value
    except EarlyStopIteration as stop:
        keep(stop)
        return results
    yield  # a second one, as in the wrapper: pluggy reports it
