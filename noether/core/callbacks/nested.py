"""Callbacks that another callback owns, calls and names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from noether.checkpoint.writer import CheckpointWriter
from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig
from noether.core.callbacks.build import build_callback
from noether.core.callbacks.ids import name_callbacks
from noether.core.callbacks.participants import as_participant
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.utils.training.counter import UpdateCounter
from noether.kernel.dispatch import Dispatch, compile_dispatch
from noether.kernel.hookspecs import HOOKS


class NestedCallbacks:
    """One set of children of a callback.

    Each gets a view of the log writer that puts `metric_prefix` before all of its keys, so that it reads and writes
    metrics of its own without knowing that it is nested.

    Args:
        configs: Settings of the children, in the order of the spec.
        arguments: What the parent itself was built with, beside its config.
        passes_on: The hooks that the parent calls on its children; the run calls all others.
        metric_prefix: What stands before the keys of their metrics: `ema=0.999/`.
        id_part: What stands between the parent's id and theirs; empty for nothing.
        checkpoint_writer: Takes their requests for checkpoints; the parent's own where None.

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
        self._own_ids = [member.id for member in self.members]
        self._id_part = id_part
        self._passes_on = passes_on
        self._request_stop = arguments["trainer"].request_stop
        self._dispatch: Dispatch | None = None

    def name_after(self, parent_id: str) -> None:
        """Put the parent's id before the children's; may be called again."""
        for member, own_id in zip(self.members, self._own_ids, strict=True):
            member.id = "/".join(part for part in (parent_id, self._id_part, own_id) if part)

    def compile(self) -> Dispatch:
        """Compile the hooks that the parent passes on; done before training, so that what cannot work is known then.

        Raises:
            PluginError: An implementation cannot work.
        """
        without = frozenset(HOOKS) - self._passes_on
        participants = [as_participant(member, without=without) for member in self.members]
        self._dispatch = compile_dispatch(participants, on_stop=self._request_stop)
        return self._dispatch

    @property
    def dispatch(self) -> Dispatch:
        """The compiled hooks that the parent passes on."""
        return self._dispatch or self.compile()

    def call(self, hook: str, arguments: Mapping[str, Any]) -> None:
        """Call a hook of all children; what is not among `arguments` is None."""
        implementations = getattr(self.dispatch, hook)
        if implementations is not None:
            implementations(*[arguments.get(name) for name in HOOKS[hook]])

    def is_due(self, update_counter: UpdateCounter, hook: Literal["update", "epoch"]) -> bool:
        """Whether any child has something to do in this round of `after_update` or `after_epoch`."""
        if getattr(self.dispatch, f"after_{hook}_always") is not None:
            return True
        return any(m.is_due(update_counter, hook) for m in self.members if isinstance(m, PeriodicCallback))

    def next_due_update(self, update_counter: UpdateCounter) -> int:
        """Return the next update after which a child has something to do."""
        if self.dispatch.after_update_always is not None or self.dispatch.after_epoch_always is not None:
            return update_counter.update + 1
        return self.dispatch.next_due_update(update_counter)


def family(callbacks: Sequence[CallbackBase]) -> Iterator[CallbackBase]:
    """Yield all callbacks, each followed by those that it owns, and by what these own."""
    for callback in callbacks:
        yield callback
        yield from family(children_of(callback))


def children_of(callback: CallbackBase) -> list[CallbackBase]:
    """Return the callbacks that one owns, those included that it only tells of through `get_children`."""
    members = [member for group in callback.nested() for member in group.members]
    known = {id(member) for member in members}
    return [*members, *(child for child in callback.get_children() if id(child) not in known)]
