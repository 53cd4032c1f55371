"""Rounds: the hooks called at a boundary or around training, and the checkpoints that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch

from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback
from noether.core.callbacks.tree import compile_hooks, family
from noether.core.models.agreement import evaluation_weights, require_agreement, require_same_names, state_names
from noether.core.models.base import ModelBase, evaluating
from noether.data.randomness import preserved_rng
from noether.data.samplers import TaggedBatch
from noether.errors import NonFiniteError
from noether.kernel.compile import HookCall, HookWatch, active_watch, watch_hooks
from noether.kernel.dispatch import Dispatch
from noether.kernel.hookspecs import is_when_due
from noether.kernel.participant import Participant
from noether.training.state import TrainerParts
from noether.training.stop import interruptible, take_up

CHECKPOINT_WAIT = "checkpoint_wait"
"""Seconds in which training waited for an asynchronous save, among the trainer's `seconds`."""

EVALUATION, SAVE, PERIODIC = ("round", "evaluation"), ("round", "save"), "periodic_callback"
"""Keys of the rounds of a `RunState`: rounds in which a callback goes through data, saves, and each callback in those
rounds by (PERIODIC, id). Other rounds read no clock, because they may follow every update."""

# Saving the generators costs more than most of these hooks, so only hooks that declare that they draw from them pay.
_EVERY_UPDATE = ("before_optimizer_step", "track_after_accumulation_step", "track_after_update_step")
_Unit = Literal["update", "epoch"]
_UNITS: dict[str, _Unit] = {"after_update": "update", "after_epoch": "epoch"}
_NOTHING = nullcontext()


class Rounds:
    """Calls the hooks of a boundary and commits the checkpoints that they ask for.

    Hooks see the model in evaluation mode, and numbers that they draw from the global generators are put back, so that
    an observer never changes training. Both are left out if every callback in the round declares that it needs neither.

    Args:
        trainer: The trainer, its hooks compiled.
        model: The model, unwrapped.
        dist_model: The model as training calls it.
        data_iter: The stream of training and evaluation batches.
    """

    def __init__(
        self, trainer: TrainerParts, model: ModelBase, dist_model: torch.nn.Module, data_iter: Iterator[TaggedBatch]
    ) -> None:
        assert trainer.dispatch is not None, "hooks are compiled before"
        self.trainer = trainer
        self.model = model
        self.dist_model = dist_model
        self.dispatch = trainer.dispatch
        self.counter = trainer.state.counter
        self.guard = trainer.one_update.guard
        self.log_writer = trainer.log_writer
        self.checkpoint_writer = trainer.checkpoint_writer
        self.arguments = {"trainer_model": dist_model, "data_iter": data_iter, "batch_size": trainer.batch_size}
        self.due = self.dispatch.next_due_update(self.counter)
        self.last = -1  # update of the last round
        self._going_through_data = [callback for callback in trainer.callbacks if _goes_through_data(callback)]
        self._state_names = state_names(model)
        self._doing: dict[tuple[str, str], list[tuple[Any, _Unit | None]]] = {}

    # Around training

    def before_training(self) -> None:
        """Call `before_training`."""
        with preserved_rng(), self._modes("before_training"):
            self.trainer.call_before_training(self.trainer.callbacks)

    def after_training(self) -> None:
        """Call `after_training`."""
        with preserved_rng(), self._modes("after_training"):
            self.trainer.call_after_training(self.trainer.callbacks)

    def at_eval(self) -> None:
        """Call `at_eval` once, outside of any schedule."""
        if self.dispatch.at_eval is not None:
            with preserved_rng(), self._modes("at_eval"), self._timed_round():
                self.dispatch.at_eval(self.counter, **self.arguments)

    # After an update

    def after_update(self) -> None:
        """Run the hooks of the update that was just counted, and those of its epoch if it was the last of one.

        A signal may interrupt them if some of them go through data; the run has a pending round then.
        """
        counter, dispatch = self.counter, self.dispatch
        if counter.update < self.due:
            self._call(dispatch.after_update_always, dispatch.after_epoch_always, checked=False)
            return
        self.last = counter.update
        self.send_flags()
        if self._is_pass_due():
            with interruptible(self.trainer, self.model), self._timed_round():
                self._call(dispatch.after_update, dispatch.after_epoch)
        else:
            self._call(dispatch.after_update, dispatch.after_epoch)
        self.due = dispatch.next_due_update(counter)

    def repeat(self, before_round: Mapping[str, Any]) -> None:
        """Run the round of the current update, which an earlier session could not finish.

        Args:
            before_round: State of the beginning of that round.
        """
        take_up(self.trainer, self.model, before_round)
        self.due = self.counter.update
        self.after_update()

    def _call(self, update_hooks: HookCall | None, epoch_hooks: HookCall | None, *, checked: bool = True) -> None:
        counter = self.counter
        if epoch_hooks is not None and not counter.is_full_epoch:
            epoch_hooks = None
        if update_hooks is None and epoch_hooks is None:
            return
        hooks = ["after_update"] if update_hooks is not None else []
        hooks += ["after_epoch"] if epoch_hooks is not None else []
        with self._generators(*hooks), self._modes(*hooks, checked=checked):
            if update_hooks is not None:
                update_hooks(counter, **self.arguments)
            if epoch_hooks is not None:
                epoch_hooks(counter, **self.arguments)
        self.trainer.one_update.look_again()

    def _is_pass_due(self) -> bool:
        """Return True if a callback may go through data in this round; one without an interval always may."""
        if not self._going_through_data:
            return False
        counter = self.counter
        hooks: list[_Unit] = ["update", "epoch"] if counter.is_full_epoch else ["update"]
        return any(
            not isinstance(callback, PeriodicCallback) or any(callback.is_due(counter, hook) for hook in hooks)
            for callback in self._going_through_data
        )

    def _generators(self, *hooks: str) -> AbstractContextManager[None]:
        """Return a context that restores the generators, or an empty one if no hook in it may draw from them."""
        return preserved_rng() if self._may("draws_in_rounds", hooks) else _NOTHING

    def _modes(self, *hooks: str, checked: bool = True) -> AbstractContextManager[None]:
        """Return a context with the model in evaluation mode, or an empty one if no hook in it may call the model."""
        return self._evaluating(checked=checked) if self._may("calls_model", hooks) else _NOTHING

    def _may(self, declared: str, hooks: Sequence[str]) -> bool:
        """Return True if a callback that is due in one of the hooks does not declare that it does no such thing."""
        for hook in hooks:
            for instance, unit in self._doers(declared, hook):
                if unit is None or instance.is_due(self.counter, unit):
                    return True
        return False

    @contextmanager
    def _evaluating(self, *, checked: bool) -> Iterator[None]:
        """Put the model in evaluation mode; afterwards check that the optimizers still fit it, unless not `checked`."""
        with evaluating(self.dist_model, self.model), evaluation_weights(self.model):
            yield
        if checked:
            self._require_same_model()

    @contextmanager
    def _timed_round(self) -> Iterator[None]:
        """Time a round, and each callback in it, beside the measurements that the run asks for."""
        watch = active_watch() or HookWatch()
        if watch.timers is None:
            watch = replace(watch, timers=self.trainer.state.rounds)
        with self._timed(EVALUATION), watch_hooks(watch):
            yield

    @contextmanager
    def _timed(self, key: tuple[str, str]) -> Iterator[None]:
        """Count the block and its seconds."""
        started, timer = perf_counter(), self.trainer.state.rounds.setdefault(key, [0, 0.0])
        try:
            yield
        finally:
            timer[0] += 1
            timer[1] += perf_counter() - started

    def _require_same_model(self) -> None:
        """Check that optimizers and later runs fit the model that the callbacks have left."""
        require_agreement(self.model)
        require_same_names(self.model, self._state_names, "a callback")

    def _doers(self, declared: str, hook: str) -> list[tuple[Any, _Unit | None]]:
        """Return the objects that may do a thing in a hook, and the unit of the interval at which they act."""
        if (declared, hook) not in self._doing:
            implementing = set(self.dispatch.order(hook))
            instances = [one.instance for one in self.trainer.participants if one.id in implementing]
            self._doing[declared, hook] = [
                (instance, _UNITS.get(hook) if _acts_when_due(instance, hook) else None)
                for instance in instances
                if not _declares_not_to(instance, declared)
            ]
        return self._doing[declared, hook]

    def send_flags(self) -> None:
        """Send the flags of updates that only the device knows to the host; they are counted when they have arrived."""
        if self.guard.waiting:
            self.guard.send(self.log_writer.late, self._give_up_late)

    def read_flags(self) -> None:
        """Count all updates that were masked, and write the lines that wait for their values; waits for the device.

        Raises:
            NonFiniteError: if the run gives up because of them.
        """
        self.send_flags()
        self.log_writer.late.settle()

    def _give_up_late(self) -> None:
        """End the run as `give_up_if_not_finite`; what was measured since that update is not written."""
        try:
            self.give_up_if_not_finite(waits=False)
        except NonFiniteError:
            self.log_writer.late.forget()
            self.log_writer.discard()
            raise

    def give_up_if_not_finite(self, *, waits: bool = True) -> None:
        """End the run if too many updates were not applied.

        Args:
            waits: False to go by the updates that have been counted.

        Raises:
            NonFiniteError: if too many updates in a row were non-finite.
        """
        last = self.checkpoint_writer.last_committed
        self.guard.raise_if_given_up(self.counter.update, str(last) if last else None, waits=waits)

    # Checkpoints

    def commit(self) -> None:
        """Write the metrics of this boundary, then the requested checkpoint; wait for the one before it."""
        self.read_flags()
        self.log_writer.flush(self.counter)
        if self.checkpoint_writer.pending is not None:
            self.settle()
            self._require_same_model()
            with self.trainer.signals.uninterrupted(), self._timed(SAVE):
                folder = self.checkpoint_writer.commit(self.trainer.capture_state(self.model))
            self._report(folder)

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, if there is one, and report it."""
        if self.checkpoint_writer.queue.in_flight is None:
            return
        started, seconds = perf_counter(), self.trainer.state.seconds
        with self.trainer.signals.uninterrupted():
            folder = self.checkpoint_writer.settle()
        seconds[CHECKPOINT_WAIT] = seconds.get(CHECKPOINT_WAIT, 0.0) + perf_counter() - started
        self._report(folder)

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Commit the checkpoint that is being written before the run ends, also after an error.

        Raises:
            StorageError: if the disk refuses it; an error that ends the run gets a note instead.
        """
        try:
            yield
        except BaseException as error:
            try:
                self.settle()
            except Exception as another:
                error.add_note(f"the checkpoint that was being written then failed as well: {another}")
            raise
        self.settle()

    def _report(self, committed: Path | None) -> None:
        if committed is not None and self.dispatch.checkpoint_committed is not None:
            with preserved_rng(), self._modes("checkpoint_committed"):
                self.dispatch.checkpoint_committed(run=self.trainer.run, checkpoint=committed)
            self.trainer.one_update.look_again()


def compile_run_hooks(
    callbacks: Sequence[CallbackBase], plugins: Sequence[Participant], on_stop: Callable[[str], None]
) -> Dispatch:
    """Compile the hooks of a run; hooks of every update that use the generators restore them.

    Args:
        callbacks: The callbacks in the order of the spec.
        plugins: The run plugins in the order of `use`.
        on_stop: Called with the reason if a hook ends training.

    Raises:
        PluginError: if an implementation does not fit its hook.
    """
    dispatch = compile_hooks(callbacks, plugins, on_stop=on_stop)
    for hook in _EVERY_UPDATE:
        if any(getattr(found.instance, "draws_every_update", False) for found in dispatch.participants(hook)):
            setattr(dispatch, hook, partial(call_hook, getattr(dispatch, hook)))
    return dispatch


def call_hook(hook: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> None:
    """Call a hook outside of a round; numbers that it draws from the generators are put back."""
    if hook is not None:
        with preserved_rng():
            hook(*args, **kwargs)


def _goes_through_data(callback: CallbackBase) -> bool:
    return any(isinstance(member, PeriodicDataIteratorCallback) for member in family([callback]))


def _acts_when_due(instance: Any, hook: str) -> bool:
    return isinstance(instance, PeriodicCallback) and is_when_due(getattr(instance, hook))


def _declares_not_to(instance: Any, declared: str) -> bool:
    """Return True if a callback or run plugin declares `calls_model = False`, or another such thing, for its hooks.

    A callback's class declares it for itself: a subclass may do it in an override, and declares it again.
    """
    if isinstance(instance, CallbackBase):
        return vars(type(instance)).get(declared) is False
    return getattr(instance, declared, True) is False
