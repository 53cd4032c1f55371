"""`noether batch-find`: samples a second, and on an accelerator the memory, of training with growing batch sizes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import torch

from noether.data.container import DataContainer
from noether.data.dataset import length_of
from noether.errors import UsageError
from noether.kernel.hookspecs import hookimpl
from noether.kernel.participant import Participant
from noether.kernel.progress import UpdateCounter
from noether.runs.measure.hook_costs import now
from noether.runs.measure.lr_find import require_new, train
from noether.runs.prepare import Run, rehearsal
from noether.spec.load import LoadedSpec

UPDATES_LEFT = 16  # of an epoch, with the largest size that is tried on a CPU unless the user names one
_ENOUGH = 0.9  # share of the best throughput at which the knee is
_GAIN = 1.05  # of the best throughput; two sizes without it end the search on a CPU
_WARM_UP, _FEWEST = 3, 5  # updates
_FINENESS = 8  # the largest batch that fits is found to an eighth
_ID = "noether-batch-find"
EFFECTIVE, MOST = "trainer.effective_batch_size", "trainer.max_batch_size"


@dataclass(frozen=True, slots=True)
class Measured:
    """One batch size.

    Attributes:
        size: Samples of a batch.
        rate: Samples a second; None if the batch did not fit.
        memory: Peak of the memory that tensors took on the accelerator, in bytes; None on a CPU.
    """

    size: int
    rate: float | None
    memory: int | None = None


@dataclass(frozen=True)
class BatchTest:
    """Result of the measurement.

    Attributes:
        name: Name of the spec.
        device: Its device.
        measured: The sizes in order.
        end: Reason for the end of the search.
        own: The effective batch size of the spec.
        values: The suggestion by path.
        reason: The reason for it.
    """

    name: str
    device: str
    measured: Sequence[Measured]
    end: str
    own: int
    values: dict[str, int] = field(default_factory=dict)
    reason: str = ""


def find_batch(
    load: Callable[[dict[str, Any]], LoadedSpec],
    plugins: Sequence[str] = (),
    *,
    largest: int | None,
    seconds: float,
) -> BatchTest:
    """Train a few updates with each of several batch sizes.

    On a CPU the sizes double until throughput no longer grows; the smallest one with nine tenths of the best is
    suggested. On an accelerator they double until a batch does not fit into its memory; the largest one that fits is
    found between.

    Args:
        load: Loads the spec with further overrides.
        plugins: Run plugins beside those that the spec uses.
        largest: Largest batch size to try; unset, on a CPU one that leaves some updates in an epoch.
        seconds: Time for each size, after the first updates.

    Raises:
        UsageError: if the spec is wrong, or not even one sample fits.
    """
    bench = _Bench(load, plugins, seconds)
    own = load({}).spec.trainer.effective_batch_size
    end = bench.grow(own, largest)
    fits = [one for one in bench.measured.values() if one.rate is not None]
    if not fits:
        raise UsageError("not even a batch of one sample fits into the memory", hint="make the model smaller")
    found = BatchTest(bench.name, bench.device, [bench.measured[size] for size in sorted(bench.measured)], end, own)
    values, reason = _on_accelerator(found) if bench.has_memory else _on_cpu(found)
    return BatchTest(found.name, found.device, found.measured, end, own, values, reason)


def _on_cpu(found: BatchTest) -> tuple[dict[str, int], str]:
    fits = [one for one in found.measured if one.rate is not None]
    best = max(one.rate or 0.0 for one in fits)
    own = next((one.rate for one in fits if one.size == found.own), None)
    if own is not None and own >= _ENOUGH * best:
        return {EFFECTIVE: found.own}, f"the batch size of the spec reaches {own / best:.0%} of the best throughput"
    knee = next(one for one in fits if (one.rate or 0.0) >= _ENOUGH * best)
    return {EFFECTIVE: knee.size}, f"the smallest size with {_ENOUGH:.0%} of the best throughput, {best:,.0f} samples/s"


def _on_accelerator(found: BatchTest) -> tuple[dict[str, int], str]:
    largest = max(one.size for one in found.measured if one.rate is not None)
    if largest < found.own:
        return {MOST: largest}, (
            f"the largest batch that fits; the effective batch size stays {found.own}, in several accumulation steps"
        )
    return {EFFECTIVE: largest}, f"the largest size that was measured and fits; {found.end}"


class _Bench:
    def __init__(self, load: Callable[[dict[str, Any]], LoadedSpec], plugins: Sequence[str], seconds: float) -> None:
        self._load, self._plugins, self._seconds = load, plugins, seconds
        self.measured: dict[int, Measured] = {}
        self._data: DataContainer | None = None
        self._samples: int | None = None
        self.name = self.device = ""
        self.has_memory = False

    def grow(self, own: int, largest: int | None) -> str:
        """Measure sizes until one is enough; return the reason for the end."""
        for size in _doubling(own):
            if self._samples is not None and size > self._samples:
                return f"the training set has {self._samples}"
            if largest is not None and size > largest:
                return f"larger ones than {largest} were not asked for"
            if largest is None and not self.has_memory and size > max(own, (self._samples or size) // UPDATES_LEFT):
                return f"larger ones leave fewer than {UPDATES_LEFT} updates of an epoch"
            if self.measure(size).rate is None:
                self._bisect(max((one for one in self.measured if one < size), default=0), size)
                return f"a batch of {size} does not fit"
            if not self.has_memory and self._has_levelled_out():
                return "larger batches bring nothing more"
        raise AssertionError("sizes grow without end")

    def _bisect(self, fits: int, fails: int) -> None:
        while fails - fits > max(1, fits // _FINENESS):
            middle = (fits + fails) // 2
            if self.measure(middle).rate is None:
                fails = middle
            else:
                fits = middle

    def _has_levelled_out(self) -> bool:
        rates = [self.measured[size].rate or 0.0 for size in sorted(self.measured)]
        return len(rates) > 3 and max(rates[-2:]) < _GAIN * max(rates[:-2])

    def measure(self, size: int) -> Measured:
        """Measure one batch size, and keep it."""
        probe = _Probe(self._seconds)
        extra = Participant(_ID, _ID, probe, is_plugin=True)
        limit = {EFFECTIVE: size, MOST: None, "trainer.max_updates": 1_000_000_000}
        try:
            rate: float | None = self._train(self._load(limit), probe, extra) * size
        except Exception as error:
            if not _is_out_of_memory(error.__cause__ or error):
                raise
            rate = None
        gc.collect()
        if self.has_memory:
            torch.cuda.empty_cache()
        self.measured[size] = found = Measured(size, rate, probe.memory)
        return found

    def _train(self, loaded: LoadedSpec, probe: _Probe, extra: Participant) -> float:
        """Train until the probe has measured enough; return updates a second."""
        with redirect_stdout(StringIO()), rehearsal(loaded, self._plugins, extras=[extra], data=self._data) as run:
            require_new(run)
            self._data, self._samples = run.data, length_of(run.data.train)
            self.name, self.device = run.spec.name, run.spec.device
            self.has_memory = run.trainer.device.type == "cuda"
            probe.begin(run)
            train(run)
        return probe.updates / probe.seconds


def _is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error of the allocator of any device."""
    text = str(error).lower()
    return isinstance(error, RuntimeError | MemoryError) and ("out of memory" in text or "can't allocate" in text)


class _Probe:
    """A run plugin that counts updates and seconds behind the first updates, and then ends the training."""

    def __init__(self, least: float) -> None:
        self._least = least
        self.updates, self.seconds = 0, 0.0
        self.memory: int | None = None

    def begin(self, run: Run) -> None:
        """Take the run."""
        self._trainer, self._started = run.trainer, 0.0
        if run.trainer.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(run.trainer.device)

    @hookimpl
    def track_after_update_step(self, update_counter: UpdateCounter) -> None:
        """Look at the clock: at the end of the first updates, and when enough may have been done since."""
        update, device = update_counter.update, self._trainer.device
        if update == _WARM_UP:
            self._started = now(device)
            self._look_at = update + _FEWEST
        elif update > _WARM_UP and update >= self._look_at:
            self.updates, self.seconds = update - _WARM_UP, now(device) - self._started
            self._look_at = update + max(1, self.updates)  # each look waits for the device
            if self.seconds >= self._least:
                if device.type == "cuda":
                    self.memory = torch.cuda.max_memory_allocated(device)
                self._trainer.request_stop("the measurement is done")


def _doubling(own: int) -> Iterator[int]:
    """Yield powers of two, and the size of the spec between them."""
    size = 1
    while True:
        yield size
        if size < own < 2 * size:
            yield own
        size *= 2
