"""Submission of a run to the executor of submitit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from noether.errors import UsageError, error_text
from noether_plugin_slurm.attempt import Attempt
from noether_plugin_slurm.table import SlurmTable

Cluster = Literal["slurm", "local"]


def command_of(spec: Path, run_id: str, arguments: Sequence[str], table: SlurmTable | None = None) -> list[str]:
    """Return the command of each attempt, on each node; it continues a run that exists.

    Args:
        spec: The spec.
        run_id: Name of the run folder.
        arguments: Further arguments of `noether run`.
        table: Options of the job, with its nodes and ranks; one process without.
    """
    nodes, ranks = (1, 1) if table is None else (table.nodes, table.ranks)
    run = ["-m", "noether", "run", str(spec.absolute()), "--run-id", run_id, "--resume", "auto", *arguments]
    if nodes > 1:
        run = ["-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", str(ranks), *run]
    elif ranks > 1:
        run += ["--nproc", str(ranks)]
    return [sys.executable, *run]


def submit(command: Sequence[str], run_id: str, table: SlurmTable, cluster: Cluster | None = None) -> Any:
    """Submit a run; return the job of submitit.

    Args:
        command: The command of each attempt.
        run_id: Name of the run folder, and of the job.
        table: Options of the job.
        cluster: `"local"` runs the job in processes of this machine; None asks for Slurm.

    Raises:
        UsageError: if there is no Slurm here, or it refuses the job.
    """
    import submitit

    if cluster == "local" and table.nodes > 1:
        raise UsageError(
            f"wrong slurm.nodes: found {table.nodes} with --local, expected 1", hint="add -s slurm.nodes=1"
        )
    folder = Path(table.folder or "slurm").absolute() / run_id
    try:
        executor = submitit.AutoExecutor(
            folder,
            cluster=cluster or "slurm",
            slurm_max_num_timeout=table.max_attempts,  # the limit is that of `Attempt`, which preemptions count for too
            local_max_num_timeout=table.max_attempts,
        )
    except RuntimeError as error:
        raise UsageError(
            f"cannot submit a job: found no srun on {_host()}, expected a machine of a Slurm cluster",
            hint="submit from a login node; --local runs the job on this machine",
        ) from error
    executor.update_parameters(**table.parameters(run_id))
    try:
        with _no_streams() if cluster == "local" else nullcontext():
            return executor.submit(
                Attempt(command, Path.cwd(), table.max_attempts, nodes=table.nodes, ranks=table.ranks)
            )
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        raise UsageError(
            f"Slurm refuses the job: {error_text(error)}", hint="look at the options of the job: --dry-run shows them"
        ) from error


@contextmanager
def _no_streams() -> Iterator[None]:
    """Let no process that is started hold a pipe of this command: `noether slurm-submit … | cat` would wait for it."""
    streams = (1, 2)
    kept, nowhere = [os.dup(stream) for stream in streams], os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in streams:
            os.dup2(nowhere, stream)
        yield
    finally:
        for stream, copy in zip(streams, kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)


def _host() -> str:
    import socket

    return socket.gethostname()
