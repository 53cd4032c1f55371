"""`noether.run`: from a spec to an outcome."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from noether.core.providers.path import PathProvider
from noether.core.trackers.base import RunDescription
from noether.core.utils.secrets import mask, masked_traceback
from noether.errors import NoetherError, StorageError
from noether.kernel.component import Component
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.entry import BUILT_IN
from noether.kernel.participant import Participant
from noether.kernel.registry import use_registry
from noether.runs.assemble import Run, assemble, build_trackers
from noether.runs.configured import configured
from noether.runs.console import console, kept_for_console
from noether.runs.expect import check_expectations
from noether.runs.folder import RunFolder
from noether.runs.outcome import Outcome
from noether.runs.process_state import device_of, process_state
from noether.runs.run_id import checked_run_id, new_run_id
from noether.runs.tracking import Tracking, flattened
from noether.spec.configs import components_in
from noether.spec.load import LoadedSpec, load_spec
from noether.spec.resolve import resolved_tables
from noether.training.loop.signals import StoppedBySignal

_LOG = logging.getLogger("noether.run")
_MACHINERY = ("profiling/", "data/", "model/", "optim/", "stability/")  # not what a run is about
_SIGNAL_BASE = 128  # a shell reports an end by signal n as 128 + n


def run(
    spec: str | Path | Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
    plugins: Iterable[str] = (),
    trusted: Iterable[str] = (),
    quiet: bool = False,
) -> Outcome:
    """Train what a spec describes, in this process.

    Args:
        spec: A TOML file, or a dict of the same tables.
        set: Overrides with Python values by dotted path.
        run_id: Name of the run's folder; a new one by default.
        overrides: Overrides as on the command line, `path=value` or `path+=value`.
        unset: Paths to remove from the spec before those.
        plugins: Run plugins beside those that the spec uses.
        trusted: Packages that dotted kinds may import beside the usual ones.
        quiet: Print warnings and errors only.

    Returns:
        How the run ended. What goes wrong once training has begun is in the outcome's `error`.

    Raises:
        UsageError: The spec or what it names is wrong; nothing was trained.
    """
    plugins = list(plugins)
    loaded = load_spec(spec, overrides, set, unset=unset, trusted=trusted, plugins=plugins)
    with use_registry(loaded.registry):
        participants = configured(loaded.spec, plugins)
        run_id = new_run_id(loaded.spec.name) if run_id is None else checked_run_id(run_id)
        paths = PathProvider(loaded.spec.output, run_id)
        with process_state(loaded.spec):
            return _Execution(loaded, paths, participants, quiet=quiet).run()


class _Execution:
    """One attempt at one run: builds it, trains it, and tells everybody how it ended."""

    def __init__(self, loaded: LoadedSpec, paths: PathProvider, plugins: list[Participant], *, quiet: bool) -> None:
        self.loaded = loaded
        self.paths = paths
        self.plugins = plugins
        self.quiet = quiet
        self.folder = RunFolder(paths)

    def run(self) -> Outcome:
        with kept_for_console() as said:
            trackers = build_trackers(self.loaded.spec)
            run = assemble(self.loaded.spec, self.paths, device_of(self.loaded.spec.device), trackers)
            run.trainer.plugins, run.trainer.run = self.plugins, run
            run.trainer.prepare(run.model)
        self.folder.create()
        self.folder.write_spec(self.loaded.source_text, run.resolved)
        self.folder.write_run({"spec_sha256": run.trainer.checkpoint_writer.spec_sha256})
        self.folder.begin_attempt()
        with console(self.paths.log_path, quiet=self.quiet):
            _LOG.info("run %s in %s", run.run_id, run.run_dir)
            for note in self.loaded.notes:
                _LOG.info("note: %s", note)
            for record in said:
                logging.getLogger(record.name).handle(record)
            tracking = Tracking(trackers, self.paths, self._description(run))
            tracking.start()
            outcome = self._outcome(run, self._train(run, tracking))
            self._finish(run, outcome, tracking)
            return outcome

    def _description(self, run: Run) -> RunDescription:
        parts: list[Component | Participant] = [component for _, component in components_in(run.spec)]
        parts += self.plugins
        foreign = {part.distribution: part.version for part in parts if part.distribution != BUILT_IN}
        foreign.pop("", None)
        return RunDescription(
            run_id=run.run_id,
            name=run.spec.name,
            run_dir=run.run_dir,
            params=flattened(resolved_tables(run.spec)),
            tags={
                "noether.plugins": json.dumps(foreign, sort_keys=True),
                "noether.spec.sha256": run.trainer.checkpoint_writer.spec_sha256,
            },
            spec_path=self.loaded.path or self.paths.spec_path,
            resolved_spec_path=self.paths.resolved_spec_path,
        )

    def _train(self, run: Run, tracking: Tracking) -> BaseException | None:
        """Train; return what ended it early, None where nothing did."""
        try:
            tracking.follow(run.trainer.log_writer)
            run.trainer.train(run.model)
            if run.trainer.signals.received is None or run.trainer.update_counter.is_finished:
                # One that was stopped before its end has not had its chance.
                metrics = run.trainer.log_writer
                check_expectations(run.spec.expect, metrics.final_metrics, metrics.best_metrics)
        except (Exception, KeyboardInterrupt, SystemExit, StoppedBySignal) as error:
            traceback.clear_frames(error.__traceback__)  # or the outcome would keep the data's workers alive
            return error
        return None

    def _outcome(self, run: Run, error: BaseException | None) -> Outcome:
        signal_number = None if run.trainer.update_counter.is_finished else run.trainer.signals.received
        metrics = dict(run.trainer.log_writer.final_metrics)
        if isinstance(error, KeyboardInterrupt | StoppedBySignal) or (error is None and signal_number is not None):
            return Outcome("KILLED", run.run_dir, metrics, error, _SIGNAL_BASE + (signal_number or 2))
        if error is None:
            return Outcome("FINISHED", run.run_dir, metrics)
        code = error.exit_code if isinstance(error, NoetherError) else 1
        return Outcome("FAILED", run.run_dir, metrics, error, code)

    def _finish(self, run: Run, outcome: Outcome, tracking: Tracking) -> None:
        """Let plugins, the run folder and the trackers know how the run ended."""
        reason = run.trainer.stop_reason if outcome.error is None else describe(outcome.error)
        if outcome.error is not None:
            self._keep_in_log(outcome.error)
        dispatch = run.trainer.dispatch or compile_dispatch(self.plugins)
        if dispatch.run_finished is not None:
            try:
                dispatch.run_finished(run=run, outcome=outcome)
            except Exception as error:  # the run has ended already, and how it ended stays true
                _LOG.warning("%s", describe(error))
        run.trainer.log_writer.close()
        try:
            self.folder.end_attempt(outcome.status, reason)
        except StorageError as error:
            _LOG.warning("%s", error)
        if outcome.status == "KILLED" and not run.trainer.checkpoint_writer.steps:
            _LOG.info("no checkpoint was committed; save_on_sigint = true under [trainer] commits one on Ctrl-C")
        for key, value in outcome.metrics.items():
            if not key.startswith(_MACHINERY):
                _LOG.info("  %s = %.6g", key, value)
        tracking.close(outcome.status, reason if outcome.status == "FAILED" else None)
        _LOG.info("%s after %s: %s", outcome.status.lower(), run.trainer.update_counter.cur_iteration, run.run_dir)

    def _keep_in_log(self, error: BaseException) -> None:
        """Write to `log.txt` why the run failed: the message of a user's mistake, the whole traceback of a defect."""
        known = isinstance(error, NoetherError)
        text = mask(f"{error}\n") if known else masked_traceback(error)
        try:
            with self.paths.log_path.open("a", encoding="utf-8") as log:
                log.write(text)
        except OSError as refusal:
            _LOG.warning("cannot write %s: %s", self.paths.log_path, refusal.strerror)


def describe(error: BaseException) -> str:
    """Return what an error says, with the notes that name the callback it came from, and without secrets."""
    text = error.message if isinstance(error, NoetherError) else f"{type(error).__name__}: {error}"
    notes = getattr(error, "__notes__", [])
    return mask("\n".join([text, *notes]))
