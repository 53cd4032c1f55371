"""Rate and remaining time of this session: what was trained before a resume does not count."""

from __future__ import annotations

from time import monotonic

from noether.kernel.progress import UpdateCounter


class Pace:
    """Measures updates a second from where this session began."""

    def __init__(self, update_counter: UpdateCounter) -> None:
        self._first_update = update_counter.update
        self._started = monotonic()

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since this session began."""
        return monotonic() - self._started

    def updates_per_second(self, update_counter: UpdateCounter) -> float | None:
        """Return the rate of this session, None before its first update."""
        updates = update_counter.update - self._first_update
        return updates / max(self.elapsed_seconds, 1e-9) if updates else None

    def remaining_seconds(self, update_counter: UpdateCounter) -> float | None:
        """Return the seconds that the rest will take at that rate, None before the first update."""
        rate = self.updates_per_second(update_counter)
        return None if rate is None else (update_counter.end_update - update_counter.update) / rate


def clock(seconds: float) -> str:
    """Write seconds as `1:02:03` or `02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
