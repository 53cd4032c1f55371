"""The ranks of a run: started on this machine, and trained beside rank 0, which alone writes the run folder."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from socket import gethostname
from tempfile import TemporaryDirectory
from typing import TypeVar

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.untrusted import is_folder, open_inside
from noether.errors import CheckpointError, NoetherError, SpecError, TrainingError, UsageError
from noether.kernel.hookspecs import HOOKS
from noether.kernel.watchdog import write_stacks
from noether.runs.console import log_of_rank
from noether.runs.outcome import ENDED_WITH, EXIT_CODE, FINAL, Outcome
from noether.runs.prepare import Preparation, Run
from noether.runs.process_state import keep_threads
from noether.runs.resume.continuation import Continuation, SavedState
from noether.runs.resume.facts import facts_of
from noether.runs.tracking.tracking import flattened
from noether.spec.model import resolved_tables
from noether.training.parallel import Parallel
from noether.training.parallel.one import WORLD_SIZE, world_of

T = TypeVar("T")


def start_ranks(arguments: Sequence[str], *, ranks: int, restarts: int = 0) -> tuple[int, str | None]:
    """Run `noether` with these arguments in several processes, one for each rank.

    A signal goes to all of them. If one of them ends with an error, the others are ended; then all are started again,
    at most `restarts` times, and continue the run.

    Args:
        arguments: The verb and its arguments, with the id of the run if it may start again.
        ranks: Number of ranks.
        restarts: Most restarts.

    Returns:
        The exit code of the run, and the end of a rank that was killed.

    Raises:
        UsageError: if a launcher has started this process already.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if (world := world_of(os.environ)) != "1":
        raise UsageError(
            f"wrong --nproc: found it in a process that a launcher has started with {WORLD_SIZE}={world}, expected one "
            "of both",
            hint="leave --nproc out, or start noether without the launcher",
        )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a launcher that was killed would be reported with stacks
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"noether-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=restarts,
        monitor_interval=0.1,
    )
    with TemporaryDirectory(prefix="noether-launch-") as folder:
        ended = Path(folder) / "exit-code"
        os.environ[ENDED_WITH] = str(ended)
        code, silent = 0, None
        try:
            elastic_launch(config, sys.executable)("-m", "noether", *arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            code = error.failures.get(0, failure).exitcode
            if failure.exitcode < 0:
                silent = f"rank {rank}, process {failure.pid}, was ended by {signal.Signals(-failure.exitcode).name}"
        except SignalException as stop:
            code = EXIT_CODE + int(stop.sigval)
        finally:
            del os.environ[ENDED_WITH]  # runs of this process end with codes of their own
        with suppress(FileNotFoundError):
            code = int(ended.read_text(encoding="ascii"))
    if code < 0:  # a signal that stops a run has come before it could handle it
        code = EXIT_CODE - code if EXIT_CODE - code in FINAL else 1
    return code, silent


@dataclass(frozen=True, slots=True)
class Decision:
    """The way in which rank 0 begins the run.

    Attributes:
        checkpoint: Name of the checkpoint to continue from; None for a new run.
        same_spec: True if the spec is the one that it was saved with.
        has_ended: True if nothing is left to do.
        facts: Facts of the run, with their salt.
    """

    checkpoint: str | None = None
    same_spec: bool = True
    has_ended: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, state: Continuation | None) -> Decision:
        """Return the decision to begin a run anew, or from a state."""
        facts = run.trainer.checkpoint_writer.facts
        return (
            cls(facts=facts) if state is None else cls(state.saved.checkpoint.folder.name, state.same_spec, facts=facts)
        )

    def state(self, paths: PathProvider) -> Continuation | None:
        """Read the state that rank 0 continues with.

        Args:
            paths: Paths of the run, as this machine sees it.

        Raises:
            CheckpointError: if this machine does not have the checkpoint.
        """
        if self.checkpoint is None:
            return None
        folder = paths.checkpoint_path / self.checkpoint
        if not is_folder(folder):
            raise CheckpointError(
                f"rank 0 continues from a checkpoint that is missing on {gethostname()}: found nothing at {folder}, "
                "expected a folder of runs that all machines share",
                hint="set output to a folder on a file system that all machines share, or copy the run to each of them",
            )
        saved = SavedCheckpoint.open(folder)
        return Continuation(SavedState(saved, saved.state()), same_spec=self.same_spec)


def on_all_ranks(parallel: Parallel, work: Callable[[], T]) -> T:
    """Do work on every rank, and return its result; if a rank refuses, all do, and rank 0 has its message.

    Raises:
        NoetherError: if a rank has refused: rank 0 has its own error or that of another one; the others are silent.
    """
    result, error = None, None
    try:
        result = work()
    except NoetherError as refused:
        error = refused
    said = parallel.gather(None if error is None else str(error))
    if parallel.is_writer and error is not None:
        raise error
    refusing = next((rank for rank, text in enumerate(said) if text is not None), None)
    if refusing is not None:
        refusal = UsageError(f"rank {refusing}: {said[refusing]}")
        refusal.is_reported = not parallel.is_writer
        raise refusal
    return result  # type: ignore[return-value]  # there was no error


def require_one_folder(parallel: Parallel, paths: PathProvider) -> None:
    """Refuse a run that rank 0 does not have and another rank does: rank 0 would begin it anew.

    Raises:
        UsageError: if the machines have different folders of runs.
    """
    places = parallel.gather(f"{paths.run_path} on {gethostname()}" if is_folder(paths.run_path) else None)
    found = next((rank for rank, place in enumerate(places) if place is not None), None)
    if places[0] is None and found is not None:
        refusal = UsageError(
            f"the run is not on the machine of rank 0: found {places[found]} (rank {found}), expected it "
            "on all machines",
            hint="set output to a folder on a file system that all machines share, or start rank 0 where the run is",
        )
        refusal.is_reported = not parallel.is_writer
        raise refusal


def require_name(parallel: Parallel, run_id: str | None) -> None:
    """Refuse a launcher that would start the ranks again without a way to find the run of before.

    Raises:
        UsageError: if the run has no id of its own.
    """
    if parallel.restarts and run_id is None:
        raise UsageError(
            f"missing run id: found none for ranks that the launcher starts again up to {parallel.restarts} times, "
            "expected the id of the run that they continue",
            hint="add --run-id ID",
        )


def require_same(parallel: Parallel, run: Run) -> None:
    """Refuse to train if the ranks have not the same spec, code, plugins and hooks; name what differs.

    Raises:
        SpecError: if something differs.
    """
    if parallel.world == 1:
        return
    dispatch = run.trainer.dispatch
    own = {f"spec: {key}": value for key, value in flattened(resolved_tables(run.spec)).items()}
    own |= run.trainer.checkpoint_writer.facts
    own |= {f"order of {hook}": ", ".join(dispatch.order(hook)) for hook in HOOKS} if dispatch is not None else {}
    facts = parallel.gather(own)
    for rank, found in enumerate(facts):
        rows = [key for key in sorted(found.keys() | facts[0].keys()) if found.get(key) != facts[0].get(key)]
        if rows:
            shown = "; ".join(f"{key}: {found.get(key)!s:.80} (rank 0: {facts[0].get(key)!s:.80})" for key in rows[:5])
            more = f"; and {len(rows) - 5} more" if len(rows) > 5 else ""
            raise SpecError(
                f"rank {rank} would train another run than rank 0: found {shown}{more}",
                hint="start all ranks with the same files, packages and command",
            )


def follow(prepared: Preparation, paths: PathProvider, parallel: Parallel) -> Outcome:
    """Train beside rank 0; what callbacks write goes to a folder that is removed in the end.

    Args:
        prepared: The run to build.
        paths: Paths of the run.
        parallel: The ranks; this is not the writer.

    Returns:
        The outcome of this rank.
    """
    with TemporaryDirectory(prefix="noether-rank-") as scratch:
        own = PathProvider.of_follower(paths, Path(scratch))
        if parallel.share(False):
            keep_threads(prepared.loaded.spec, paths)
        run = prepared.assemble(own)
        decision = parallel.share(Decision())
        if decision.has_ended:
            return Outcome("FINISHED", paths.run_path)
        run.trainer.checkpoint_writer.record(facts_of(run.spec, prepared.plugins, decision.facts))
        state = decision.state(paths)
        if state is not None:
            for log in state.saved.checkpoint.manifest.logs:
                _copy(paths.run_path, log, own.run_path)
        prepared.ready(run, state=state)
        require_same(parallel, run)
        parallel.share(None)
        with run.trainer.signals:
            return _train(run, paths, parallel)


def _copy(run: Path, name: str, scratch: Path) -> None:
    """Copy a file of metrics, which is cut back to the checkpoint there; nothing may have been written to it yet."""
    with (
        suppress(FileNotFoundError),
        os.fdopen(open_inside(run, name), "rb") as file,
        (scratch / name).open("xb") as copy,
    ):
        shutil.copyfileobj(file, copy)


def _train(run: Run, paths: PathProvider, parallel: Parallel) -> Outcome:
    # A machine that does not share the folder of runs has none for the log of this rank.
    place = paths.run_path if is_folder(paths.run_path) else None
    with log_of_rank(f"log.rank-{parallel.rank:05d}.txt", place) as log, redirect_stdout(log):
        parallel.on_hang(partial(write_stacks, log, f"rank {parallel.rank} was waited for in vain"))
        try:
            run.trainer.train(run.model)
        except BaseException as error:
            parallel.report(error)
            return _failure(run, paths, error)
        finally:
            run.trainer.log_writer.close()
    stopped_by = run.trainer.stopped_by
    metrics = dict(run.trainer.log_writer.final_metrics)
    if stopped_by is not None:
        return Outcome("KILLED", paths.run_path, metrics, None, EXIT_CODE + stopped_by)
    return Outcome("FINISHED", paths.run_path, metrics)


def _failure(run: Run, paths: PathProvider, error: BaseException) -> Outcome:
    received = run.trainer.signals.heard
    if received is not None and not isinstance(error, Exception):
        return Outcome("KILLED", paths.run_path, {}, error, EXIT_CODE + received)
    code = error.exit_code if isinstance(error, NoetherError) else TrainingError.exit_code
    return Outcome("FAILED", paths.run_path, {}, error, code)
