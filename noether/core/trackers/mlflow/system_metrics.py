"""MLflow's own monitor of processor, memory, disk, network and GPU."""

from __future__ import annotations

from typing import Any

from noether.core.trackers.mlflow.environment import quiet_mlflow

_INTERVAL_S = 5.0
"""MLflow's ten seconds would show nothing of a short run."""


def start_system_metrics(tracking_uri: str, run_id: str) -> Any:
    """Start the monitor's thread and return it. A resumed run goes on counting."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    with quiet_mlflow():
        monitor = SystemMetricsMonitor(
            run_id, sampling_interval=_INTERVAL_S, resume_logging=True, tracking_uri=tracking_uri
        )
        monitor.start()
    return monitor


def stop_system_metrics(monitor: Any) -> None:
    """End a monitor's thread."""
    with quiet_mlflow():
        monitor.finish()
