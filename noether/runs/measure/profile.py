"""Profile of a run, for `noether run --profile`: costs of hooks, parts of an update, a trace, model FLOPs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerAction, record_function, schedule
from torch.utils.flop_counter import FlopCounterMode

from noether.checkpoint.durable import replace_file
from noether.checkpoint.paths import shown_path
from noether.checkpoint.untrusted import read_chosen
from noether.core.models.recompute import keep_activations
from noether.data.randomness import preserved_rng
from noether.data.samplers import TRAINING
from noether.kernel.compile import HookWatch
from noether.runs.measure.hook_costs import COLUMNS, Meter, cells, in_us, is_eager
from noether.runs.outcome import describe
from noether.runs.prepare import Run, built_model
from noether.spec.errors.words import in_columns
from noether.training.trainers.types import TrainerResult

TRACE = "trace.json"
"""File of the run folder with the traced updates."""
_BEFORE, _TRACED = 10, 20  # updates
_CUDA = [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
_RECORDING = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)
_PARTS = ("data_time", "forward_time", "backward_time", "update_time")
_LOG = logging.getLogger("noether.profile")
_PEAKS = {  # FLOP/s, dense, of NVIDIA's data sheets: float32 without tensor cores, float16 and bfloat16
    "H100 PCIe": (51.2e12, 756e12),
    "H100": (66.9e12, 989e12),
    "H200": (66.9e12, 989e12),
    "A100": (19.5e12, 312e12),
}


class Profile:
    """Profile one run: call it with the run for a context around training.

    The costs of the whole run go to the log, and a trace of some updates to the run folder; those are left out of the
    costs, because tracing is slow. Weights are the same as without it.

    Args:
        nvtx: Opens a range of NVTX; by default torch's if there is a CUDA device.

    Attributes:
        watch: The measurements to compile into the hooks of the run.
    """

    def __init__(self, nvtx: Callable[[str], AbstractContextManager[object]] | None = None) -> None:
        self._nvtx = nvtx or (torch.cuda.nvtx.range if torch.cuda.is_available() else None)
        self._meter = Meter(self._ranged)
        self.watch = HookWatch(around=self._meter.around, stream=self._stream)
        self._profiler: torch.profiler.profile | None = None
        self._steps, self._began_at = 1, 0
        self._updates = self._timed = self._measured = self._traced = 0
        self._seconds, self._last = 0.0, 0.0
        self._batch: Any = None

    @contextmanager
    def __call__(self, run: Run) -> Iterator[None]:
        """Profile the training of a run inside of the block; a profile that fails is a warning."""
        counter = run.trainer.update_counter
        self._steps, self._began_at = run.trainer.accumulation_steps, counter.update
        before = min(_BEFORE, (counter.end_update - counter.update) // 2)
        self._profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU, *_CUDA],
            schedule=schedule(wait=max(0, before - 1), warmup=min(1, before), active=_TRACED, repeat=1),
        )
        handles = self._forward_ranges(run)
        with _quiet_kineto():
            self._profiler.start()
            try:
                yield
            finally:
                self._end(run, self._profiler, handles)

    def _end(self, run: Run, profiler: torch.profiler.profile, handles: list[Any]) -> None:
        try:
            for handle in handles:
                handle.remove()
            profiler.stop()
            self._report(run, profiler)
        except Exception as error:
            _LOG.warning("the profile is incomplete: %s", describe(error))

    @contextmanager
    def _ranged(self, name: str) -> Iterator[None]:
        with ExitStack() as stack:
            if self._nvtx is not None:
                stack.enter_context(self._nvtx(f"noether/{name}"))
            stack.enter_context(record_function(f"noether/{name}"))
            yield

    def _forward_ranges(self, run: Run) -> list[Any]:
        """Name the forward passes of a model that is called as it is; a graph has them inside."""
        if not is_eager(run.trainer):
            return []
        opened: list[AbstractContextManager[None]] = []

        def begin(*_: object) -> None:
            opened.append(self._ranged("forward"))
            opened[-1].__enter__()

        def end(*_: object) -> None:
            opened.pop().__exit__(None, None, None)

        model = run.model
        return [model.register_forward_pre_hook(begin), model.register_forward_hook(end, always_call=True)]

    def _stream(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches of a stream, and note where each update begins."""
        taken = 0
        while True:
            with self._ranged("data"):
                tagged = next(batches, None)
            if tagged is None:
                return
            if tagged[0] == TRAINING:
                if taken % self._steps == 0:
                    self._begin_update()
                self._batch = tagged[2] if self._batch is None else self._batch
                taken += 1
            yield tagged

    def _begin_update(self) -> None:
        """Time the update before, unless it was traced, and let the profiler trace this one."""
        assert self._profiler is not None, "training is inside of the context"
        if self._updates:
            if self._meter.is_timing:
                self._seconds += perf_counter() - self._last
                self._timed += 1
            self._profiler.step()
        self._updates += 1
        action = self._profiler.current_action
        self._meter.is_timing = action is ProfilerAction.NONE
        self._measured += self._meter.is_timing
        self._traced += action in _RECORDING
        self._last = perf_counter()

    # The end of the run

    def _report(self, run: Run, profiler: torch.profiler.profile) -> None:
        if getattr(profiler.profiler, "kineto_results", None) is not None:
            path = run.run_dir / TRACE
            with TemporaryDirectory(prefix="noether-") as folder:
                exported = Path(folder).resolve() / TRACE
                profiler.export_chrome_trace(str(exported))
                replace_file(path, read_chosen(exported), inside=run.run_dir)
            _LOG.info("trace of %d updates: %s; open it at https://ui.perfetto.dev", self._traced, shown_path(path))
        if not self._timed:
            _LOG.info("the run is too short for a profile: all of its %d updates were traced", self._updates)
            return
        _LOG.info("an update takes %s µs on average, evaluation and boundaries included", in_us(self._us))
        for line in [*self._parts(run), *self._flops(run), *self._table()]:
            _LOG.info("  %s", line)

    @property
    def _us(self) -> float:
        return 1e6 * self._seconds / self._timed

    def _parts(self, run: Run) -> list[str]:
        updates = run.trainer.update_counter.update - self._began_at
        seconds = run.trainer.seconds
        parts = {part.removesuffix("_time"): seconds[part] for part in _PARTS if part in seconds}
        return [f"{part} {in_us(1e6 * taken / max(1, updates))} µs" for part, taken in parts.items()]

    def _table(self) -> list[str]:
        """Return the costs of all callbacks and run plugins for an update in columns, the dearest first."""
        costs = self._meter.costs(self._measured, 1e-6 * self._us * self._measured)
        rows = [tuple(map(str.upper, COLUMNS)), *(tuple(cells(one).values()) for one in costs)]
        return in_columns(rows, [False] * len(COLUMNS))

    def _flops(self, run: Run) -> list[str]:
        """Return model FLOPs of an update, and the utilisation of a device whose peak is known."""
        try:
            flops = self._steps * flops_of(run, self._batch)
        except Exception as error:  # code of the model that cannot be called once more
            return [f"model FLOPs: not counted: {describe(error)}"]
        lines = [f"model FLOPs of an update: {flops:,} (matrix products and convolutions, forward and backward)"]
        peak = peak_of(run.trainer.device, run.trainer.precision.dtype)
        return [*lines, f"utilisation: {flops / (self._us * 1e-6) / peak:.1%} of {peak:.3g} FLOP/s"] if peak else lines


@contextmanager
def _quiet_kineto() -> Iterator[None]:
    """Let torch's profiler print no line when it starts and stops; it reads the variable once in a process."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def flops_of(run: Run, batch: Any) -> int:
    """Count the floating point operations of one forward and backward pass, on another model of the same sizes.

    Those of recomputed modules count once: utilisation is about the work that the model needs.
    """
    trainer = run.trainer
    with preserved_rng(), torch.enable_grad():
        model = built_model(run.spec, run.data.first_sample(), trainer.device)
        keep_activations(model.to(trainer.device))
        with FlopCounterMode(display=False) as counter, trainer.autocast():
            loss = TrainerResult.of(trainer.train_step(trainer.to_device(batch), model)).total_loss
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return int(counter.get_total_flops())


def peak_of(device: torch.device, dtype: torch.dtype | None) -> float | None:
    """Return the FLOP/s that a device reaches at most; None if that is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peaks[dtype is not None] for part, peaks in _PEAKS.items() if part in name), None)
