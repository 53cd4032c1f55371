"""Trackers that fail, one that keeps the end of a run, and a callback that gives trackers time."""

import os
import signal
import time

from noether.config.components import TrackerBaseConfig
from noether.core.callbacks import PeriodicCallback
from noether.metrics.tracker import BaseTracker


class SignalsAtTheEnd(BaseTracker):
    """Sends the run SIGTERM twice when it is closed, and hangs."""

    def __init__(self, tracker_config: TrackerBaseConfig):
        super().__init__(tracker_config)

    def open(self, run):
        pass

    def log_metrics(self, records):
        pass

    def close(self, status, error):
        for _ in range(2):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


class KeepsTheEnd(BaseTracker):
    """Writes the status of the run to a file of its folder."""

    def __init__(self, tracker_config: TrackerBaseConfig):
        super().__init__(tracker_config)

    def open(self, run):
        self.file = run.run_dir / "end.txt"

    def log_metrics(self, records):
        pass

    def close(self, status, error):
        self.file.write_text(status)


class Paces(PeriodicCallback):
    """Sleeps, so that a run of milliseconds is delivered in many batches."""

    def periodic_callback(self, **_):
        time.sleep(0.03)
