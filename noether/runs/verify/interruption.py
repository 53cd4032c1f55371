"""The run plugin of `verify-resume`: interrupt a run after given updates, and record its state there."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from noether.core.callbacks.tree import family
from noether.kernel.hookspecs import hookimpl
from noether.kernel.progress import UpdateCounter
from noether.metrics.log import LogWriter

Remembered = dict[str, dict[str, str]]
"""The plain attributes of callbacks by id and name, as text."""


class Interruption:
    """Follows one attempt at a run.

    Args:
        stops: Updates after which a checkpoint is saved.
        kept: Folder for copies of the checkpoints.
        interrupts: Stop the run there by SIGTERM; otherwise it only saves.

    Attributes:
        logged_by: The ids of the callbacks by the metric key that they logged.
        foreign: The ids of the callbacks that are not built in.
        at_checkpoints: Attributes of the callbacks at each checkpoint, by update.
        at_start: Their attributes when training began or continued.
        started_at: The update at which it did.
        has_interrupted: True if this plugin stopped the run.
    """

    def __init__(self, stops: Collection[int], kept: Path, *, interrupts: bool) -> None:
        self.stops = frozenset(stops)
        self.kept = kept
        self.interrupts = interrupts
        self.logged_by: dict[str, str] = {}
        self.foreign: set[str] = set()
        self.at_checkpoints: dict[int, Remembered] = {}
        self.at_start: Remembered = {}
        self.started_at = 0
        self.has_interrupted = False
        self._trainer: Any = None

    @hookimpl
    def run_started(self, run: Any) -> None:
        """Record the callback of each metric key."""
        self._trainer = run.trainer
        for callback in family(run.trainer.callbacks):
            callback.writer = _AttributedWriter(callback.writer, callback.id, self.logged_by)
            if not type(callback).__module__.startswith("noether."):
                self.foreign.add(callback.id)

    @hookimpl(trylast=True)
    def before_training(self, update_counter: UpdateCounter) -> None:
        """Record the attributes of the callbacks."""
        self.started_at = update_counter.update
        self.at_start = self._remembered()

    @hookimpl(trylast=True)
    def after_update(self, update_counter: UpdateCounter) -> None:
        """Save or stop, unless `after_epoch` follows."""
        if not update_counter.is_full_epoch:
            self._act(update_counter)

    @hookimpl(trylast=True)
    def after_epoch(self, update_counter: UpdateCounter) -> None:
        """Save or stop."""
        self._act(update_counter)

    @hookimpl
    def checkpoint_committed(self, checkpoint: Path) -> None:
        """Copy the checkpoint of an interruption, which the run itself may remove, and that of the end."""
        update = self._trainer.update_counter.update
        self.at_checkpoints[update] = self._remembered()
        if update in self.stops or self._trainer.update_counter.is_finished or self._trainer.stop_reason is not None:
            target = self.kept / checkpoint.name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(checkpoint, target, copy_function=os.link)  # committed checkpoints are never written to

    def _act(self, update_counter: UpdateCounter) -> None:
        if update_counter.update not in self.stops:
            return
        if self.interrupts:
            self.has_interrupted = True
            signal.raise_signal(signal.SIGTERM)
        else:
            self._trainer.checkpoint_writer.save()

    def _remembered(self) -> Remembered:
        return {
            callback.id: {name: text for name, value in vars(callback).items() if (text := _text(value)) is not None}
            for callback in family(self._trainer.callbacks)
        }


class _AttributedWriter(LogWriter):
    """A view of a log writer that records the callback of each metric key; so do its own views.

    Args:
        writer: The writer of a callback.
        callback: Id of the callback.
        logged_by: Ids by metric key.
    """

    def __init__(self, writer: LogWriter, callback: str, logged_by: dict[str, str]) -> None:
        self._writer = writer
        self.prefix = writer.prefix
        self.round = writer.round
        self._callback = callback
        self._logged_by = logged_by

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def add_scalar(
        self, key: str, value: Any, logger: logging.Logger | None = None, format_str: str | None = None
    ) -> None:
        """Add a metric as usual."""
        super().add_scalar(key, value, logger, format_str)
        self._logged_by[self.prefix + key] = self._callback

    def below(self, prefix: str) -> LogWriter:
        """Return a view that records as this one does."""
        return _AttributedWriter(self._writer.below(prefix), self._callback, self._logged_by)


def _text(value: Any) -> str | None:
    """Return plain data as text; None for other objects, which a state would not hold as they are."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Tensor):
        return (
            f"tensor of shape {tuple(value.shape)}: {value.detach().cpu().tolist()!r}" if value.numel() < 100 else None
        )
    if isinstance(value, list | tuple | set | frozenset):
        items = [_text(item) for item in value]
        return None if None in items else f"{type(value).__name__}({', '.join(map(str, items))})"
    if isinstance(value, dict):
        values = {str(key): _text(value[key]) for key in sorted(value, key=str)}
        return None if None in values.values() else str(values)
    return None
