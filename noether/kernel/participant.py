"""Participants of a run that implement hooks, their implementations, and the exceptions that these raise."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from noether.errors import PluginError, TrainingError, notes_of, text_of
from noether.kernel.entries import BUILT_IN, Component, normal
from noether.kernel.hookspecs import HOOKS, has_implementations
from noether.kernel.names import nearest
from noether.kernel.progress import EarlyStopIteration, UpdateCounter
from noether.kernel.registry import Registry, active_registry


def load_plugins(names: Iterable[str], registry: Registry | None = None) -> list[Participant]:
    """Import run plugins; one that is named twice is loaded once, at its first place.

    Args:
        names: Names in the group `noether.plugins`, short or qualified, or dotted paths of trusted modules.
        registry: The registry that has them; the active one by default.

    Raises:
        PluginError: if a name is unknown, contested or not trusted, or its module fails to import or implements no
            hook.
    """
    registry = registry or active_registry()
    loaded: dict[str, Component] = {}
    for name in names:
        component = registry.load("plugin", name)
        _check(component)
        loaded.setdefault(component.kind, component)
    return [
        Participant(kind, kind, component.target, component.distribution, component.version, is_plugin=True)
        for kind, component in loaded.items()
    ]


def _check(component: Component) -> None:
    if inspect.isclass(component.target):
        raise PluginError(
            f"plugin '{component.kind}' of {component.origin} has the wrong type: found the class "
            f"{component.target.__qualname__}, expected a module or an object",
            hint="name a module, or an object of that class",
        )
    if not has_implementations(component.target):
        meant = [name for name in dir(component.target) if not name.startswith("_") and nearest(name, HOOKS)]
        found = f"functions without @noether.hookimpl such as {meant[0]}" if meant else "no hook functions"
        raise PluginError(
            f"plugin '{component.kind}' of {component.origin} implements no hook: found {found}",
            hint="mark its functions with @noether.hookimpl",
        )


@dataclass(frozen=True, eq=False, slots=True)
class Participant:
    """An object that implements hooks, with its names in errors, profiles and digests.

    Participants compare by identity: the `__eq__` or `__hash__` of the object itself may do anything.

    Attributes:
        id: Unique name within the run, the key of state and timings.
        kind: Canonical kind of a component, or name of a run plugin.
        instance: The callback, or the module or object of a run plugin.
        distribution: Name of its distribution; empty for project code.
        version: Version of that distribution.
        without: Hooks that its owner calls on it, and the run does not.
        is_plugin: True for a run plugin, whose hooks are the functions marked with `@noether.hookimpl`.
    """

    id: str
    kind: str
    instance: Any
    distribution: str = ""
    version: str = ""
    is_plugin: bool = False
    without: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """Return its name in errors: `callback 'ema'`, `plugin 'hello'`."""
        return f"{'plugin' if self.is_plugin else 'callback'} '{self.id}'"

    @property
    def with_distribution(self) -> str:
        """Its name, with the distribution of a third party: `callback 'x' of noether-plugin-x 1.2`."""
        is_ours = normal(self.distribution) in ("", BUILT_IN)
        return str(self) if is_ours else f"{self} of {self.distribution} {self.version}"

    @property
    def description(self) -> str:
        """Its name with its origin: `callback 'ema' (kind ema, noether-train 0.1.0)`."""
        origin = f"{self.distribution} {self.version}".strip()
        kind = "" if self.is_plugin else f"kind {self.kind}"
        details = ", ".join(part for part in (kind, origin) if part)
        return f"{self} ({details})" if details else str(self)


NextDue = Callable[[UpdateCounter], int | None]


@dataclass(frozen=True, eq=False, slots=True)
class Implementation:
    """One implementation of one hook.

    Attributes:
        hook: Name of the hook.
        participant: Its participant.
        function: The function to call; a method is bound to its object.
        binding: The arguments that it takes.
        tryfirst: True to be called before the others.
        trylast: True to be called after the others.
        wrapper: True for a generator around the other calls, as in `hookimpl(wrapper=True)`.
        hookwrapper: True for a wrapper of the older form, which gets a `pluggy.Result`.
        next_due: Returns the next update at which an implementation acts that acts only when its interval fires.
    """

    hook: str
    participant: Participant
    function: Callable[..., Any]
    binding: Binding
    tryfirst: bool = False
    trylast: bool = False
    wrapper: bool = False
    hookwrapper: bool = False
    next_due: NextDue | None = None

    @property
    def wraps(self) -> bool:
        """Return True if it is a wrapper of either form."""
        return self.wrapper or self.hookwrapper


def call_order(implementation: Implementation) -> tuple[int, bool]:
    """Return the key that sorts the implementations of a hook; equal ones stay in the order given.

    Run plugins marked tryfirst, components in the order of the spec, the other run plugins in the order of
    `use`, those marked trylast. A component may be marked too; the spec's order then rules within the group.
    """
    is_plugin = implementation.participant.is_plugin
    if implementation.tryfirst:
        return 0, not is_plugin
    if implementation.trylast:
        return 3, is_plugin
    return 1, is_plugin


@dataclass(frozen=True, slots=True)
class Binding:
    """The arguments of a hook that an implementation takes, and the way to pass them.

    Attributes:
        positional: Hook arguments to pass by position: those of positional-only parameters.
        keywords: Hook arguments to pass by name.
        unknown: Required parameters that the hook has no argument for; the call works only if there are none.
        takes_all: True if it takes `**kwargs`.
    """

    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    unknown: tuple[str, ...]
    takes_all: bool = False

    @property
    def source(self) -> str:
        """The argument list of the call as Python source: `update_counter, times=times`."""
        return ", ".join([*self.positional, *(f"{name}={name}" for name in self.keywords)])


def bind(function: Callable[..., Any], arguments: Sequence[str]) -> Binding:
    """Bind an implementation to the arguments that its hook offers.

    It gets every argument that it names, whether its parameter has a default or not, and all of them if it
    takes `**kwargs`. A parameter with a default that the hook does not offer keeps that default.

    Args:
        function: The implementation; a method is bound to its object.
        arguments: Names of the hook's arguments.

    Raises:
        ValueError: if its signature cannot be read (some callables written in C).
        TypeError: if it is not callable.
    """
    positional: list[str] = []
    keywords: list[str] = []
    unknown: list[str] = []
    takes_all = False
    reachable = True  # by position: false behind a positional-only parameter that keeps its default
    for name, parameter in inspect.signature(function).parameters.items():
        takes_all |= parameter.kind is parameter.VAR_KEYWORD
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name not in arguments:
            if parameter.default is parameter.empty:
                unknown.append(name)
            reachable &= parameter.kind is not parameter.POSITIONAL_ONLY
        elif parameter.kind is not parameter.POSITIONAL_ONLY:
            keywords.append(name)
        elif reachable:
            positional.append(name)
    if takes_all:
        keywords += [name for name in arguments if name not in (*positional, *keywords)]
    return Binding(tuple(positional), tuple(keywords), tuple(unknown), takes_all)


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
