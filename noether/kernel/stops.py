"""EarlyStopIteration inside a hook: the other implementations are still called."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from noether.kernel.binding import Implementation
from noether.kernel.progress import EarlyStopIteration

_START = "raised by "


def add_note(error: BaseException, implementation: Implementation, update_counter: Any) -> None:
    """Add `raised by callback 'ema' (kind ema, noether-train 0.1.0) in hook after_update at update 120`."""
    update = getattr(update_counter, "update", None)
    where = f" at update {update}" if isinstance(update, int) else ""
    error.add_note(f"{_START}{implementation.participant.description} in hook {implementation.hook}{where}")


def add_first_note(error: BaseException, implementation: Implementation, update_counter: Any) -> None:
    """Add the note unless the exception came to a wrapper from inside, where it got one already."""
    if not any(note.startswith(_START) for note in getattr(error, "__notes__", ())):
        add_note(error, implementation, update_counter)


OnStop = Callable[[str], object]
"""Told why training is to end, and who wants it: `loss has not improved for 6 intervals (callback 'stopper')`."""


def first_stop(
    known: EarlyStopIteration | None, stop: EarlyStopIteration, implementation: Implementation, update_counter: Any
) -> EarlyStopIteration:
    """Return the stop that counts, which is the earlier one; where this is the first, note whose it is.

    The traceback goes: it holds the arguments of the hook, and the stop outlives the call.
    """
    if known is not None:
        return known
    add_note(stop, implementation, update_counter)
    stop.source = stop.source or str(implementation.participant)
    return stop.with_traceback(None)


def raise_stop(stop: EarlyStopIteration) -> None:
    """Raise a stop: what a hook does in the end where nobody is to be told."""
    raise stop


def telling(on_stop: OnStop | None) -> Callable[[EarlyStopIteration], object]:
    """Return what a hook does in the end with a stop."""
    if on_stop is None:
        return raise_stop
    return lambda stop: on_stop(f"{stop.reason} ({stop.source})")


class KeptStops:
    """The stop of a call that goes through pluggy, which has no place of its own for it.

    Args:
        on_stop: As in `compile_dispatch`.
    """

    def __init__(self, on_stop: OnStop | None) -> None:
        self._tell = telling(on_stop)
        self._first: EarlyStopIteration | None = None

    def keep(self, stop: EarlyStopIteration, implementation: Implementation, update_counter: Any) -> None:
        """Remember a stop until the end of the call."""
        self._first = first_stop(self._first, stop, implementation, update_counter)

    def call(self, caller: Callable[..., Any], **arguments: Any) -> Any:
        """Call a hook, then tell the stop that was kept meanwhile; a hook may be called within another."""
        outer, self._first = self._first, None
        try:
            results = caller(**arguments)
            stop = self._first
        finally:
            self._first = outer
        if stop is not None:
            self._tell(stop)
        return results


def going_on(
    wrapper: Generator[Any, Any, Any], keep: Callable[[EarlyStopIteration], None]
) -> Generator[None, Any, Any]:
    """Drive a wrapper so that its own stop is kept, and what it wraps is called and returned all the same.

    Args:
        wrapper: The generator, not yet started.
        keep: Takes the stop.
    """
    try:
        next(wrapper)
    except StopIteration:
        return None  # without a yield, of which pluggy complains
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
    yield  # as it did: pluggy complains of a second one
