"""The table `[slurm]` of a spec, and submission of a run to the executor of submitit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from noether.config.components import SpecTable
from noether.errors import UsageError, error_text
from noether_plugin_slurm.attempt import Attempt


class SlurmTable(SpecTable):
    """Options of the jobs of `noether slurm-submit`."""

    path_fields: ClassVar[tuple[str, ...]] = ("folder",)

    partition: str | None = Field(None, examples=["gpu"], description="Partition; the default one without.")
    account: str | None = Field(None, description="Account that pays.")
    qos: str | None = Field(None, description="Quality of service.")
    constraint: str | None = Field(None, examples=["a100"], description="Features that the node must have.")
    time_min: int = Field(60, ge=1, description="Minutes that a job may take; a longer run takes several jobs.")
    nodes: int = Field(1, ge=1, description="Nodes of the job.")
    ranks: int = Field(1, ge=1, description="Ranks on each node: processes that train together.")
    gpus: int = Field(0, ge=0, description="GPUs on each node, at least one for each rank; a job without sees none.")
    cpus: int = Field(1, ge=1, description="Processor cores on each node, those of workers among them.")
    mem_gb: float | None = Field(None, gt=0, description="Memory on each node in GB; the default of Slurm without.")
    signal_s: int = Field(
        120, ge=1, description="Seconds before the end of a job at which its run is stopped, saved and requeued."
    )
    max_attempts: int = Field(20, ge=1, description="Jobs that a submission may take, with the first.")
    setup: list[str] = Field([], examples=[["module load cuda"]], description="Lines of shell before the run.")
    sbatch: dict[str, str | int | bool] = Field(
        {}, examples=[{"reservation": "team"}], description="Further options of sbatch by their long names."
    )
    folder: str | None = Field(
        None, description="Folder of scripts and logs; a folder `slurm` in the working folder without."
    )

    @model_validator(mode="after")
    def _stops_in_time(self) -> SlurmTable:
        if self.signal_s >= 60 * self.time_min:
            raise ValueError(
                f"found signal_s = {self.signal_s}, expected less than the {60 * self.time_min} s of a job"
            )
        return self

    @model_validator(mode="after")
    def _has_a_gpu_for_each_rank(self) -> SlurmTable:
        if 0 < self.gpus < self.ranks:
            raise ValueError(f"found gpus = {self.gpus}, expected at least {self.ranks}, one for each rank of a node")
        return self

    def parameters(self, name: str) -> dict[str, Any]:
        """Return the options in the words of submitit's `AutoExecutor`.

        Args:
            name: Name of the job.
        """
        return {
            "name": name,
            "timeout_min": self.time_min,
            "gpus_per_node": self.gpus or None,  # sbatch may refuse 0 where no node has any
            "cpus_per_task": self.cpus,
            "mem_gb": self.mem_gb,
            "nodes": self.nodes,
            "tasks_per_node": 1,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            "slurm_signal_delay_s": self.signal_s,
            "slurm_setup": self.setup or None,
            "slurm_additional_parameters": self.sbatch or None,
            "local_setup": self.setup or None,
        }


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
