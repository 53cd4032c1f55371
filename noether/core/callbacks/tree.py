"""The tree of callbacks: built from configs, named, nested in groups, and compiled into hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from noether.checkpoint.writer import CheckpointWriter
from noether.config.base import component_of, construction_of, seed_for
from noether.config.parameters import constructors, parameters
from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig
from noether.errors import SpecError
from noether.kernel.dispatch import Dispatch, compile_dispatch
from noether.kernel.hookspecs import HOOKS
from noether.kernel.names import free_name
from noether.kernel.participant import OnStop, Participant
from noether.kernel.progress import UpdateCounter


def build_callback(config: CallBackBaseConfig, default_kwargs: Mapping[str, Any]) -> CallbackBase:
    """Construct the callback that `config` is for.

    Args:
        config: Its settings; its `kind` names the class.
        default_kwargs: The arguments of every callback's constructor beside its config.

    Raises:
        SpecError: if its class is abstract, or its constructor does not call that of its base class.
    """
    component = component_of(config)
    target = component.target
    if inspect.isabstract(target):
        missing = ", ".join(sorted(target.__abstractmethods__))
        raise SpecError(f"the callback '{config.kind}' is abstract: {target.__name__} does not define {missing}")
    with construction_of(config):
        arguments = {**seed_for(target), **default_kwargs}
        callback: CallbackBase = target(config, **arguments) if _takes_config(target) else target(**arguments)
    if "trainer" not in vars(callback):
        call = "callback_config, **kwargs" if _takes_config(target) else "**kwargs"
        raise SpecError(
            f"the callback '{component.kind}' is not initialised: {target.__name__}.__init__ does not call that of its "
            "base class",
            hint=f"begin it with super().__init__({call})",
        )
    callback.component = component
    callback.id = config.id or ""
    return callback


def _takes_config(target: type) -> bool:
    names = [parameter.name for constructor in constructors(target) for parameter in parameters(constructor)]
    return any(name == "config" or name.endswith("_config") for name in names)


def name_callbacks(callbacks: Sequence[CallbackBase]) -> None:
    """Make callback ids unique: one without an id gets its short kind, then `-2`, `-3`."""
    taken = {callback.id for callback in callbacks if callback.id}
    for callback in callbacks:
        if not callback.id:
            callback.id = free_name(_short_kind(callback), taken)
            taken.add(callback.id)


def _short_kind(callback: CallbackBase) -> str:
    if callback.component is None or callback.component.entry is None:
        return type(callback).__name__.lower()
    return callback.component.entry.name


def participants_of(callbacks: Sequence[CallbackBase]) -> list[Participant]:
    """Name all callbacks of a run, nested ones included, and return them as participants.

    A nested callback takes part in the hooks that its owner does not pass on to it. One that is only named in
    `get_children` takes part in none: its owner calls all of its hooks.
    """
    name_callbacks(callbacks)
    return [participant for callback in callbacks for participant in _with_nested(callback, frozenset())]


def as_participant(callback: CallbackBase, *, without: frozenset[str] = frozenset()) -> Participant:
    """Return one callback as a participant.

    Args:
        callback: The callback; it has an id.
        without: Hooks that its owner calls on it.
    """
    component = callback.component
    return Participant(
        id=callback.id,
        kind=component.kind if component else type(callback).__name__,
        instance=callback,
        distribution=component.distribution if component else "",
        version=component.version if component else "",
        without=without,
    )


def _with_nested(callback: CallbackBase, without: frozenset[str]) -> Iterator[Participant]:
    yield as_participant(callback, without=without)
    for group in callback.nested():
        group.name_after(callback.id)
        for member in group.members:
            yield from _with_nested(member, callback.passes_on)
    for child in _other_children(callback):
        yield from _with_nested(child, frozenset(HOOKS))


def _other_children(callback: CallbackBase) -> list[CallbackBase]:
    """Return the children that only `get_children` names, with ids below the id of their owner."""
    members = {id(member) for group in callback.nested() for member in group.members}
    children = [child for child in callback.get_children() if id(child) not in members]
    start = f"{callback.id}/"
    unnamed = [child for child in children if not child.id.startswith(start)]
    name_callbacks(unnamed)
    for child in unnamed:
        child.id = start + child.id
    return children


@runtime_checkable
class _Scheduled(Protocol):
    """A callback with intervals: `PeriodicCallback`, which this module must not import."""

    def is_due(self, update_counter: UpdateCounter, hook: Literal["update", "epoch"]) -> bool:
        """Return True if an interval of the callback fires in this round."""


class NestedCallbacks:
    """A group of children of a callback.

    Each child gets a view of the log writer that puts `metric_prefix` before all of its keys, so that it reads and
    writes metrics of its own without knowing that it is nested.

    Args:
        configs: Settings of the children, in the order of the spec.
        arguments: The arguments that the owner was built with, beside its config.
        passes_on: The hooks that the owner calls on its children; the run calls all others.
        metric_prefix: Prefix of the children's metric keys: `ema=0.999/`.
        id_part: Part of the children's ids between the owner's id and their own; may be empty.
        checkpoint_writer: Takes the children's requests for checkpoints; None for the owner's writer.

    Attributes:
        members: The children.
    """

    def __init__(
        self,
        configs: Sequence[CallBackBaseConfig],
        arguments: Mapping[str, Any],
        *,
        passes_on: frozenset[str],
        metric_prefix: str,
        id_part: str = "",
        checkpoint_writer: CheckpointWriter | None = None,
    ) -> None:
        own = {"log_writer": arguments["log_writer"].below(metric_prefix)}
        if checkpoint_writer is not None:
            own["checkpoint_writer"] = checkpoint_writer
        self.members = [build_callback(config, {**arguments, **own}) for config in configs]
        name_callbacks(self.members)
        self._scheduled = [member for member in self.members if isinstance(member, _Scheduled)]
        self._own_ids = [member.id for member in self.members]
        self._id_part = id_part
        self._passes_on = passes_on
        self._request_stop = arguments["trainer"].request_stop
        self._dispatch: Dispatch | None = None

    def name_after(self, parent_id: str) -> None:
        """Put the owner's id before the children's; may be called again."""
        for member, own_id in zip(self.members, self._own_ids, strict=True):
            member.id = "/".join(part for part in (parent_id, self._id_part, own_id) if part)

    def compile(self) -> Dispatch:
        """Compile the hooks that the owner passes on.

        Raises:
            PluginError: if an implementation cannot work.
        """
        without = frozenset(HOOKS) - self._passes_on
        participants = [as_participant(member, without=without) for member in self.members]
        self._dispatch = compile_dispatch(participants, on_stop=self._request_stop)
        return self._dispatch

    @property
    def dispatch(self) -> Dispatch:
        """The compiled hooks that the owner passes on."""
        return self._dispatch or self.compile()

    def call(self, hook: str, arguments: Mapping[str, Any]) -> None:
        """Call a hook of all children; an argument that is missing in `arguments` is None."""
        implementations = getattr(self.dispatch, hook)
        if implementations is not None:
            implementations(*[arguments.get(name) for name in HOOKS[hook]])

    def is_due(self, update_counter: UpdateCounter, hook: Literal["update", "epoch"]) -> bool:
        """Return True if a child has something to do in this round of `after_update` or `after_epoch`."""
        if getattr(self.dispatch, f"after_{hook}_always") is not None:
            return True
        return any(member.is_due(update_counter, hook) for member in self._scheduled)

    def next_due_update(self, update_counter: UpdateCounter) -> int:
        """Return the next update after which a child has something to do."""
        if self.dispatch.after_update_always is not None or self.dispatch.after_epoch_always is not None:
            return update_counter.update + 1
        return self.dispatch.next_due_update(update_counter)


def family(callbacks: Sequence[CallbackBase]) -> Iterator[CallbackBase]:
    """Yield all callbacks, each followed by the callbacks that it owns, at any depth."""
    for callback in callbacks:
        yield callback
        yield from family(children_of(callback))


def children_of(callback: CallbackBase) -> list[CallbackBase]:
    """Return the callbacks that a callback owns: those of its groups, then those that only `get_children` names."""
    members = [member for group in callback.nested() for member in group.members]
    known = {id(member) for member in members}
    return [*members, *(child for child in callback.get_children() if id(child) not in known)]


def compile_hooks(
    callbacks: Sequence[CallbackBase], plugins: Sequence[Participant] = (), *, on_stop: OnStop | None = None
) -> Dispatch:
    """Name the callbacks of a run; compile its hooks, and those that callbacks pass on to nested ones.

    Args:
        callbacks: The callbacks in the order of the spec.
        plugins: The run plugins in the order of `use`.
        on_stop: See `compile_dispatch`.

    Raises:
        PluginError: if an implementation cannot work.
    """
    dispatch = compile_dispatch([*participants_of(callbacks), *plugins], on_stop=on_stop)
    for callback in family(callbacks):
        for group in callback.nested():
            group.compile()
    return dispatch
