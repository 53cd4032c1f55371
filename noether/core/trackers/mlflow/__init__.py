"""The MLflow tracker. Importing it does not import mlflow; opening a run does."""

from noether.core.trackers.mlflow.config import MlflowTrackerConfig
from noether.core.trackers.mlflow.tracker import MlflowTracker

__all__ = ["MlflowTracker", "MlflowTrackerConfig"]
