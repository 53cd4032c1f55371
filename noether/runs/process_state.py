"""Process state of a run: seeds, threads, determinism, precision; put back when the run ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from noether.data.randomness import rng_snapshot, seed_sample
from noether.errors import SpecError
from noether.spec.model import RunSpec

_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def device_of(name: str) -> torch.device:
    """Return the device that a spec names; `auto` is the best that is available.

    Raises:
        SpecError: if the device is not available.
    """
    available: dict[str, Callable[[], bool]] = {"cpu": lambda: True}
    available |= {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind]())
    if not available[name.partition(":")[0]]():
        present = ", ".join(kind for kind, is_available in available.items() if is_available())
        raise SpecError(f"device = {name!r} is not available: found {present}", hint='use device = "auto"')
    return torch.device(name)


class _UnderWay:
    """A run in this process, with the thread of the run and the way back to the state that it found."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.put_back = _snapshot()


_runs: list[_UnderWay] = []
_lock = threading.Lock()


@contextmanager
def _left_as_found() -> Iterator[None]:
    """Restore the state of the process; of several runs in threads, the last to end restores that of the first."""
    with _lock:
        run = _UnderWay()
        _runs.append(run)
    try:
        yield
    finally:
        with _lock:
            place = _runs.index(run)
            if run is _runs[-1]:
                run.put_back()
            else:
                _runs[place + 1].put_back = run.put_back
            del _runs[place]


def shares_generators() -> bool:
    """Return True if a run in another thread of this process is under way: both draw from the same generators."""
    with _lock:
        return any(run.thread != threading.get_ident() for run in _runs)


def _snapshot() -> Callable[[], None]:
    """Return a function that restores the process-wide settings and the generators as they are now."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = _determinism()
    workspace = os.environ.get(_CUBLAS_WORKSPACE)
    put_generators_back = rng_snapshot()

    def put_back() -> None:
        put_generators_back()
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        if _determinism() != deterministic:  # torch imports its compiler for it, which Ctrl-C may have interrupted
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        if workspace is None:
            os.environ.pop(_CUBLAS_WORKSPACE, None)

    return put_back


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@contextmanager
def process_state(spec: RunSpec, device: torch.device) -> Iterator[None]:
    """Seed all generators and apply the process-wide settings of a spec; restore all of it at the end.

    One thread computes until the run has chosen a number: sums over data, and so statistics of transforms, may differ
    in their last bits with another one.

    Args:
        spec: Seed, determinism and precision.
        device: Device of the run; accelerators that it does not use are left alone.
    """
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # or its generators could not be put back
    with _left_as_found():
        seed_sample(spec.seed)
        if device.type != "cpu":
            torch.manual_seed(spec.seed)  # the accelerators too; a CPU run must not initialise them
        torch.set_num_threads(1)  # data and model are built the same on every machine; then see `use_threads`
        if spec.matmul_precision is not None:
            torch.set_float32_matmul_precision(spec.matmul_precision)
        if spec.deterministic:
            os.environ.setdefault(_CUBLAS_WORKSPACE, ":4096:8")  # cuBLAS is only deterministic with it
            torch.use_deterministic_algorithms(True)
        yield
