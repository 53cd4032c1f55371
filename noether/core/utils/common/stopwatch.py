"""Stopwatch: elapsed wall-clock seconds of a block of work."""

from __future__ import annotations

from time import perf_counter


class Stopwatch:
    """Adds up the seconds between `start` and `stop`; also a context manager.

    Attributes:
        elapsed_seconds: What was counted so far.
        started_at: Reading of `time.perf_counter` at the last start.
    """

    __slots__ = ("elapsed_seconds", "started_at")

    def __init__(self, elapsed_seconds: float = 0.0) -> None:
        self.elapsed_seconds = elapsed_seconds
        self.started_at = 0.0

    def start(self) -> Stopwatch:
        """Start counting, on top of what was counted before."""
        self.started_at = perf_counter()
        return self

    def stop(self) -> float:
        """Stop counting and return all seconds counted so far."""
        self.elapsed_seconds += perf_counter() - self.started_at
        return self.elapsed_seconds

    def __enter__(self) -> Stopwatch:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
