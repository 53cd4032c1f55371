"""The table `[slurm]` of a spec: options of a job."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from noether.config.components import SpecTable


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
