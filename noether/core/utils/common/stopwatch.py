"""Stopwatch: elapsed wall-clock seconds of a block of work."""

from __future__ import annotations

from time import perf_counter


class Stopwatch:
    """Adds up the seconds between `start` and `stop`; also a context manager."""

    __slots__ = ("_started", "elapsed_seconds")

    def __init__(self, elapsed_seconds: float = 0.0) -> None:
        self.elapsed_seconds = elapsed_seconds
        self._started = 0.0

    def start(self) -> Stopwatch:
        """Start counting, on top of what was counted before."""
        self._started = perf_counter()
        return self

    def stop(self) -> float:
        """Stop counting and return all seconds counted so far."""
        self.elapsed_seconds += perf_counter() - self._started
        return self.elapsed_seconds

    def __enter__(self) -> Stopwatch:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
