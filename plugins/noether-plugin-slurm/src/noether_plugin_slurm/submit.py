"""Submission of a run: options of the job, and the executor of submitit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from noether.errors import UsageError, error_text
from noether_plugin_slurm.attempt import Attempt

Cluster = Literal["slurm", "local"]


class SlurmTable(BaseModel):
    """Options of a job."""

    model_config = ConfigDict(extra="forbid")

    partition: str | None = Field(None, examples=["gpu"], description="Partition; the default one without.")
    account: str | None = Field(None, description="Account that pays.")
    qos: str | None = Field(None, description="Quality of service.")
    constraint: str | None = Field(None, examples=["a100"], description="Features that the node must have.")
    time_min: int = Field(60, ge=1, description="Minutes that a job may take; a longer run takes several jobs.")
    gpus: int = Field(0, ge=0, description="GPUs of the job; a job without sees none.")
    cpus: int = Field(1, ge=1, description="Processor cores of the job, those of workers among them.")
    mem_gb: float | None = Field(None, gt=0, description="Memory of the job in GB; the default of Slurm without.")
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
            "nodes": 1,
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


def command_of(spec: Path, run_id: str, arguments: Sequence[str]) -> list[str]:
    """Return the command of each attempt; it continues a run that exists.

    Args:
        spec: The spec.
        run_id: Name of the run folder.
        arguments: Further arguments of `noether run`.
    """
    run = ["run", str(spec.absolute()), "--run-id", run_id, "--resume", "auto"]
    return [sys.executable, "-m", "noether", *run, *arguments]


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
        return executor.submit(Attempt(command, Path.cwd(), table.max_attempts))
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        raise UsageError(
            f"Slurm refuses the job: {error_text(error)}", hint="look at the options of the job: --dry-run shows them"
        ) from error


def _host() -> str:
    import socket

    return socket.gethostname()
