"""The MLflow tracker; mlflow is imported when a run opens, not before."""

from noether.core.trackers.mlflow.config import MlflowTrackerConfig
from noether.core.trackers.mlflow.tracker import MlflowTracker

__all__ = ["MlflowTracker", "MlflowTrackerConfig"]
