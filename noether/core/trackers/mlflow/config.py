"""The options of the MLflow tracker."""

from __future__ import annotations

from pydantic import Field

from noether.core.schemas.trackers import TrackerBaseConfig


class MlflowTrackerConfig(TrackerBaseConfig):
    """Where MLflow keeps the run, and under which names."""

    tracking_uri: str | None = Field(
        None,
        examples=["http://localhost:5000"],
        description="Database or server that holds the runs: sqlite:///file.db, postgresql://…, http://… "
        "(default: MLFLOW_TRACKING_URI, else mlflow.db in the working folder, as for `mlflow ui`).",
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        examples=["wings"],
        description="Experiment of the run. Default: the spec's name.",
    )
    run_name: str | None = Field(
        None,
        min_length=1,
        examples=["wider-model"],
        description="Name of the run in MLflow's tables. Default: the run id.",
    )
    artifact_location: str | None = Field(
        None,
        min_length=1,
        examples=["/data/mlartifacts"],
        description="Where a new experiment keeps its files, for good (default: mlartifacts/<experiment> "
        "beside the database; a server chooses itself).",
    )
    log_system_metrics: bool = Field(
        False, description="Also record the use of processor, memory, disk, network and GPU, as system/…."
    )
    request_timeout_s: int = Field(
        10,
        ge=1,
        description="Seconds to wait for a server's reply, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set.",
    )
