"""The MLflow tracker; mlflow is imported when a run opens, not before."""

from noether.core.trackers.mlflow.tracker import MlflowTracker, MlflowTrackerConfig

__all__ = ["MlflowTracker", "MlflowTrackerConfig"]
