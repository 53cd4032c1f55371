"""One attempt at one run: build or continue it, train it, and record its end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import strftime

from noether.checkpoint.paths import PathProvider, shown_path, sweep_leftovers, sweep_temporary_files
from noether.checkpoint.saved import CheckpointNames
from noether.config.secrets import masked_traceback, withheld
from noether.core.callbacks.display import without_bars
from noether.errors import CheckpointError, NoetherError, StorageError, TrainingError, notes_of, text_of
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.watchdog import Overdue, OverdueHook, Watchdog, write_stacks
from noether.metrics.tracker import BaseTracker, PackedModel, TrackerError
from noether.runs.console import BOLD, console, kept_for_console, open_log
from noether.runs.folder.lock import RunLock
from noether.runs.folder.run_folder import CALLBACKS, SAMPLES, RunFolder
from noether.runs.mirror.feed import NoMirror
from noether.runs.outcome import EXIT_CODE, Outcome, check_expectations, describe, say_how_to_continue
from noether.runs.predict.pack import pack_model
from noether.runs.prepare import Preparation, Run
from noether.runs.process_state import keep_threads, shares_generators
from noether.runs.ranks import Decision, require_same
from noether.runs.results.report.page import report_for_trackers
from noether.runs.resume.changes import FormerRun, mathematics
from noether.runs.resume.continuation import (
    AUTO,
    NONE,
    Continuation,
    SavedState,
    final_metrics,
    find_state,
    lost_updates,
    move_newer_aside,
    move_run_aside,
    repair,
)
from noether.runs.resume.facts import facts_of
from noether.runs.saved_spec import PROJECT, SPEC_SHA256, write_saved_spec
from noether.runs.start_and_end import Clock, costs_of, description_of, limits_of, say_end, say_start
from noether.runs.tracking.tracking import Tracking, until_stopped
from noether.spec.errors.words import visible, visible_lines
from noether.spec.model import resolved_tables
from noether.training.parallel import parallel_of
from noether.training.signals import StoppedBySignal

_LOG = logging.getLogger("noether.run")


def _as_failure(overdue: Overdue) -> TrainingError:
    hint = "log.txt has the stack of every thread; `hook_timeout_s` under [trainer] is the time of one call"
    failure = TrainingError(text_of(overdue), hint=hint)
    for note in notes_of(overdue):
        failure.add_note(note)
    return failure


class Execution:
    """One attempt at one run.

    Args:
        prepared: The run to build.
        paths: Paths of the run.
        resume: Action if the run exists; see `noether.run`.
        allow_spec_change: Continue although changes of the spec alter training.
        strict_code: Refuse to continue if code, plugins or data have changed.
        quiet: Print warnings and errors only.
        repairs: Lines on damaged files of the run that were repaired before.
        profile: Opens a context around training.
        mirror: Uploads the checkpoints of the run.
    """

    def __init__(
        self,
        prepared: Preparation,
        paths: PathProvider,
        *,
        resume: str | None = None,
        allow_spec_change: bool = False,
        strict_code: bool = False,
        quiet: bool = False,
        repairs: Iterable[str] = (),
        profile: Callable[[Run], AbstractContextManager[object]] = nullcontext,
        mirror: NoMirror | None = None,
    ) -> None:
        self.prepared = prepared
        self.loaded = prepared.loaded
        self.paths = paths
        self.resume = resume
        self.allow_spec_change, self.strict_code = allow_spec_change, strict_code
        self.quiet, self.profile, self.mirror = quiet, profile, mirror or NoMirror()
        self.parallel = parallel_of()
        self.folder = RunFolder(paths)
        self.is_older = False
        self.lock = RunLock(paths.run_path)
        self.repairs = list(repairs)
        self.clock = Clock()

    def run(self) -> Outcome:
        """Train; return the outcome.

        Raises:
            UsageError: if parts do not fit together; nothing was trained.
            CheckpointError: if the run cannot be continued from its checkpoint.
        """
        with ExitStack() as stack:
            continues = self._take_over(stack)
            self.parallel.share(continues)
            with kept_for_console() as said:
                for line in self.repairs:
                    _LOG.warning("damaged: %s", line)
                trackers = self.prepared.trackers()
                saved = self._saved_state() if continues else None
                if continues:
                    keep_threads(self.loaded.spec, self.paths)
                run = self.prepared.assemble(self.paths, trackers=trackers)
                state: Continuation | None = None
                recorded = saved.checkpoint.manifest.facts if saved else None
                run.trainer.checkpoint_writer.record(facts_of(run.spec, self.prepared.plugins, recorded))
                former = self._compared(run, saved) if continues else None
                if former is not None and saved is not None:
                    if self._has_ended(run, former, saved):
                        self.parallel.share(Decision(has_ended=True))
                        return self._nothing_to_do(run, saved)
                    newest = CheckpointNames(self.paths.checkpoint_path).newest_resumable()
                    self.is_older = newest is not None and newest.update > saved.state.update and self.resume != AUTO
                    state = Continuation(saved, same_spec=former.is_same_training(saved.checkpoint))
                if continues:
                    self._guard(run)
                self.parallel.share(Decision.of(run, state))
                self.prepared.ready(run, state=state)
                require_same(self.parallel, run)
                if continues and saved is None:
                    self._clear_for_new_beginning(run)
            if not continues:
                self.folder.create()
                stack.enter_context(self.lock)
                self.folder.require_new()
                self._guard(run)
            self.parallel.share(None)  # the folder is there, and the other ranks may open their logs
            stack.enter_context(run.trainer.signals)  # until the end of the run is recorded
            self._begin(run, saved)
            with (
                console(self.paths.log_path, self.paths.run_path, quiet=self.quiet),
                without_bars(quiet=self.quiet),
            ):
                return self._attempt(run, saved, trackers, said)

    # A run that exists

    def _take_over(self, stack: ExitStack) -> bool:
        """Lock the run if it exists and is to be continued; return True then."""
        if self.resume is None or (self.resume in (AUTO, NONE) and not self.folder.exists):
            return False
        if not self.folder.exists:
            raise CheckpointError(
                f"unknown run to continue from {self.resume!r}: found nothing at {self.paths.run_path}",
                hint="--resume auto begins a run that does not exist yet",
            )
        if self.resume == NONE:
            with self.lock:
                aside = move_run_aside(self.paths)
            _LOG.info("the former run was moved to %s", aside)
            return False
        stack.enter_context(self.lock)
        sweep_temporary_files(self.paths.run_path)
        self.repairs += repair(self.paths)
        return True

    def _guard(self, run: Run) -> None:
        """Let each commit, and each file that is opened or cut, check first that the run is still its own."""
        run.trainer.checkpoint_writer.require_own(self.lock.require_own)
        run.trainer.log_writer.require_own(self.lock.require_own)

    def _saved_state(self) -> SavedState | None:
        """Return the state to continue with; None if nothing was saved yet, and the run starts anew.

        It is read before the run is built: a run that starts anew takes its weights from its initializer.
        """
        assert self.resume is not None, "a run is only continued on request"
        sweep_leftovers(self.paths.checkpoint_path)
        saved = find_state(self.paths, self.resume)
        if saved is None:
            _LOG.info("the run has no checkpoint yet, so it starts anew")
        return saved

    def _compared(self, run: Run, saved: SavedState | None) -> FormerRun:
        """Refuse a spec that alters training; warn of changed code, and of changes that alter the last bits."""
        writer, checkpoint = run.trainer.checkpoint_writer, saved.checkpoint if saved else None
        former = FormerRun(self.folder, run.spec, writer.spec_sha256, writer.facts, checkpoint)
        if self.strict_code:
            former.require_same_code()
        if not self.allow_spec_change:
            former.require_same_mathematics()
        if former.code_changes:
            changed = "; ".join(former.code_changes)
            _LOG.warning("the run continues with other code or data, so it may end otherwise: %s", changed)
        if changes := former.inexact_changes():
            _LOG.warning("the run continues, but its last bits will differ: %s", "; ".join(changes))
        return former

    def _has_ended(self, run: Run, former: FormerRun, saved: SavedState) -> bool:
        """Return True if nothing is left to train: the end was reached, and the spec does not ask for more."""
        if self.resume != AUTO or not saved.state.trainer.get("ended"):
            return False
        return saved.state.update >= run.trainer.total_training_updates or not former.asks_for_more  # if stopped early

    def _clear_for_new_beginning(self, run: Run) -> None:
        """Discard the metrics of an earlier attempt, and move aside partial saves, from which no run can continue."""
        self.lock.require_own()
        run.trainer.log_writer.load_state_dict({"metrics": 0, "nonscalars": 0})
        move_newer_aside(self.paths, -1)

    def _nothing_to_do(self, run: Run, saved: SavedState) -> Outcome:
        for line in self.repairs:  # the log of the run is not written
            print(visible(f"damaged: {line}"))
        if not self.quiet:
            place, end = shown_path(self.paths.run_path), saved.checkpoint.manifest.iteration
            print(visible(f"{place} has finished at {end}; nothing is left to do"))
        with console(self.paths.log_path, self.paths.run_path, quiet=self.quiet):
            self.mirror.start(run.trainer.checkpoint_writer, self.lock.require_own)  # the rest of an earlier attempt
            self.mirror.close()
        return Outcome("FINISHED", self.paths.run_path, final_metrics(self.paths))

    # An attempt

    def _begin(self, run: Run, saved: SavedState | None) -> None:
        """Record the attempt, the spec and the facts of the run."""
        sha256 = run.trainer.checkpoint_writer.spec_sha256
        resumed_from = saved.checkpoint.folder.name if saved else None
        self.folder.begin_attempt(resumed_from=resumed_from, **{SPEC_SHA256: sha256})
        write_saved_spec(self.paths, self.loaded.source_text, run.resolved, former=self.folder.former_spec_path)
        self.folder.write_run(
            {
                SPEC_SHA256: sha256,
                PROJECT: str(self.loaded.project_folder),
                SAMPLES: run.data.raw_properties(),
            }
        )

    def _attempt(
        self, run: Run, saved: SavedState | None, trackers: list[BaseTracker], said: list[logging.LogRecord]
    ) -> Outcome:
        say_start(run, self.prepared.plugins, self.loaded.notes)
        if shares_generators():
            _LOG.warning(
                "another run is under way in this process, and both draw from its random generators: their results "
                "cannot be repeated; start them in processes of their own if that matters"
            )
        for record in said:
            logging.getLogger(record.name).handle(record)
        if saved is not None:
            self._log_position(saved, run.trainer.parallel.world)
        described = replace(
            description_of(run, self.paths, self.prepared.plugins),
            spec_path=self.loaded.path or self.paths.spec_path,
            attempt=self.folder.attempt,
            resumed_update=saved.state.update if saved is not None else 0,
            may_differ=self.is_older,
            mathematics=mathematics(resolved_tables(run.spec)),
        )
        tracking = Tracking(trackers, self.paths, described, self.lock.require_own, partial(self._pack, run))
        tracking.start()
        self.mirror.start(run.trainer.checkpoint_writer, self.lock.require_own)
        with self._watching_hooks(run):
            outcome = self._outcome(run, self._train(run, tracking))
            return self._finish(run, outcome, tracking)

    def _watching_hooks(self, run: Run) -> AbstractContextManager[object]:
        """Return a context that ends the run if a hook does not return in the time that the spec gives it."""
        seconds = run.trainer.config.hook_timeout_s
        return nullcontext() if seconds is None else Watchdog(OverdueHook(seconds), seconds, self._note, self._give_up)

    def _note(self, message: str) -> None:
        with suppress(StorageError), open_log(self.paths.log_path, self.paths.run_path) as log:
            write_stacks(log, f"{strftime('%Y-%m-%d %H:%M:%S')} ERROR noether.run: {message}")

    def _give_up(self, message: str) -> None:
        """End the process: the hook cannot be interrupted. What was committed stays as it is."""
        self._record_end("FAILED", message)
        with suppress(OSError):
            os.write(2, f"error: {message}, and cannot be interrupted; the run is ended\n".encode())
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(TrainingError.exit_code)

    def _log_position(self, saved: SavedState, ranks: int) -> None:
        before = saved.checkpoint.manifest.world_size
        position, lost = saved.checkpoint.manifest.iteration, lost_updates(self.paths, saved.state.update)
        again = f"; {lost} updates after it are computed again" if lost else ""
        _LOG.info("attempt %d continues after %s%s", self.folder.attempt, position, again)
        if ranks != before:
            _LOG.info("note: ranks %d → %d: results are equal within rounding, not bit for bit", before, ranks)

    def _pack(self, run: Run, folder: Path) -> PackedModel:
        return pack_model(self.paths, folder, run.data.raw_sample())

    def _train(self, run: Run, tracking: Tracking) -> BaseException | None:
        """Train; return the exception that ended training, None if there was none."""
        try:
            with run.trainer.signals.interrupting(), self.profile(run):
                with self.clock.measuring("trackers"):
                    tracking.follow(run.trainer.log_writer)
                with self.clock.measuring("training"):
                    run.trainer.train(run.model)
            if run.spec.expect and limits_of(run.spec):
                _LOG.info("[expect] is not checked: a trial does not reach its metrics")
            elif run.trainer.stopped_by is None:  # a run that was stopped early cannot be judged
                metrics = run.trainer.log_writer
                check_expectations(run.spec.expect, metrics.final_metrics, metrics.best_metrics)
        except BaseException as error:  # whatever it is, it is recorded
            traceback.clear_frames(error.__traceback__)  # or the outcome would keep the workers of the data alive
            return _as_failure(error) if isinstance(error, Overdue) else error
        return None

    def _outcome(self, run: Run, error: BaseException | None) -> Outcome:
        stopped_by, received = run.trainer.stopped_by, run.trainer.signals.received
        metrics = dict(run.trainer.log_writer.final_metrics)
        if isinstance(error, KeyboardInterrupt | StoppedBySignal) or (error is None and stopped_by is not None):
            return Outcome("KILLED", run.run_dir, metrics, error, EXIT_CODE + (received or signal.SIGINT))
        if error is None:
            return Outcome("FINISHED", run.run_dir, metrics)
        code = error.exit_code if isinstance(error, NoetherError) else 1
        return Outcome("FAILED", run.run_dir, metrics, error, code)

    def _finish(self, run: Run, outcome: Outcome, tracking: Tracking) -> Outcome:
        """Report the outcome to plugins, run folder and trackers; return it, FAILED if a required tracker failed."""
        reason = run.trainer.stop_reason if outcome.error is None else describe(outcome.error)
        is_own = self.lock.is_own()
        if outcome.error is not None and is_own:
            self._keep_in_log(outcome.error)
        dispatch = run.trainer.dispatch or compile_dispatch(self.prepared.plugins)
        if dispatch.run_finished is not None and run.trainer.signals.count <= 1:
            try:
                dispatch.run_finished(run=run, outcome=outcome)
            except BaseException as error:  # the outcome of training stays true
                _LOG.warning("%s", describe(error))
        run.trainer.log_writer.close()
        if not is_own:  # another process may write in the folder, and may deliver it
            tracking.abandon()
            self.mirror.abandon()
            return outcome
        self._record_end(outcome.status, reason, **{CALLBACKS: costs_of(run)})
        if outcome.status != "FINISHED" and not run.trainer.update_counter.is_finished:
            say_how_to_continue(self.paths, run.trainer.update_counter.update, outcome)
        say_end(run, self.paths, self.clock)
        failure = reason if outcome.status == "FAILED" else None
        report = partial(report_for_trackers, self.paths, outcome.status, failure)
        close = partial(tracking.close, outcome.status, failure, report)
        try:
            if not until_stopped(close, run.trainer.signals):
                _LOG.warning("stopped waiting for trackers because of a signal; they may lack the last metrics")
        except TrackerError as error:  # a required tracker lacks something
            if outcome.status == "FINISHED":
                outcome = Outcome("FAILED", run.run_dir, outcome.metrics, error, error.exit_code)
                self._record_end(outcome.status, describe(error))
        self.mirror.close(run.trainer.signals, is_interrupt=outcome.exit_code == EXIT_CODE + signal.SIGINT)
        end, place = run.trainer.update_counter.cur_iteration, shown_path(run.run_dir)
        limited = f" ({limits})" if (limits := limits_of(run.spec)) else ""
        last_line = f"{outcome.status.lower()} after {end}{limited}: {place}"
        _LOG.info("%s", last_line, extra=BOLD)
        return replace(outcome, last_line=last_line)

    def _record_end(self, status: str, reason: str | None, **facts: object) -> None:
        try:
            self.folder.end_attempt(status, reason, **facts)
        except StorageError as error:
            _LOG.warning("%s", error)

    def _keep_in_log(self, error: BaseException) -> None:
        """Write the error to `log.txt`: the message of a known error, the whole traceback of a defect."""
        known = isinstance(error, NoetherError)
        text = withheld(f"{error}\n") if known else masked_traceback(error)
        try:
            with open_log(self.paths.log_path, self.paths.run_path) as log:
                log.write(visible_lines(text))
        except StorageError as refusal:
            _LOG.warning("%s", refusal)
        except OSError as refusal:
            _LOG.warning("cannot write %s: %s", self.paths.log_path, refusal.strerror)
