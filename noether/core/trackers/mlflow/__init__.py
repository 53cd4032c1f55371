"""The MLflow tracker. Importing it does not import mlflow; opening a run does."""

from noether.core.trackers.mlflow.tracker import MlflowTracker, MlflowTrackerConfig

__all__ = ["MlflowTracker", "MlflowTrackerConfig"]
