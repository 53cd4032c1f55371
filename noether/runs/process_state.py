"""Process state of a run: seeds, threads, determinism, precision; put back when the run ends."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noether.checkpoint.paths import PathProvider
from noether.data.randomness import rng_snapshot, seed_sample
from noether.errors import SpecError
from noether.runs.saved_spec import has_saved_spec, read_saved_spec
from noether.spec.model import RunSpec
from noether.training.trainers.config import cut_update

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


AUTO = "auto"
WORK_OF_A_THREAD = 100_000_000
"""Multiply-adds in one forward pass for which a further thread pays: about 10 ms of a core in an update.

Threads wait for each other in every operation. On a free machine a second one pays from a tenth of this on; on a busy
one it makes smaller updates 5 to 25 times slower (measured on two cores, fully connected layers of 32 to 1,024).
"""


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """The number of threads that a run computes with.

    Attributes:
        number: Threads within one operation of PyTorch.
        reason: Reason for the number, in words.
    """

    number: int
    reason: str


def choose_threads(
    spec: RunSpec, model: nn.Module, sample: Mapping[str, Any], device: torch.device, cores: tuple[int, str]
) -> ThreadChoice:
    """Return the threads of a run: those of the spec, or with `auto` as many as pay on the cores that it may use.

    Args:
        spec: Spec of the run.
        model: The model.
        sample: One training sample.
        device: Device of the run.
        cores: The cores that it may use, as `usable_cores` found them before the run began.
    """
    if isinstance(spec.threads, int):
        return ThreadChoice(spec.threads, "as the spec says")
    if device.type != "cpu":
        return ThreadChoice(1, f"{device.type} computes, and one thread gathers batches fastest")
    most, limit = cores
    size, _ = cut_update(spec.trainer.effective_batch_size, max_batch_size=spec.trainer.max_batch_size)
    work = size * multiply_adds(model, {name: sample.get(name) for name in spec.trainer.forward_properties or sample})
    number = max(1, min(most, work // WORK_OF_A_THREAD))
    found = f"{_in_words(work)} multiply-adds in a forward pass of {size} samples"
    if number == most:
        return ThreadChoice(number, f"{found}; {limit}" if most > 1 else limit)
    return ThreadChoice(number, f"{found}, one thread for each {_in_words(WORK_OF_A_THREAD)}; {limit}")


def keep_threads(spec: RunSpec, paths: PathProvider) -> None:
    """Let a run that continues with `auto` compute with the threads of its earlier attempts: sums stay the same.

    Args:
        spec: Spec of the next attempt; its number of threads is set.
        paths: Paths of the run.
    """
    if spec.threads == AUTO and has_saved_spec(paths):
        pinned = read_saved_spec(paths).tables.get("threads")
        if type(pinned) is int and pinned > 0:
            spec.threads = pinned


def usable_cores(root: Path = Path("/"), *, ranks: int = 1) -> tuple[int, str]:
    """Return the number of cores that this process may use, and the limit that decides about it in words.

    Args:
        root: Root of the file system that holds `proc` and `sys`.
        ranks: Ranks on this machine, which share its cores.
    """
    limits = {}  # of equal ones the first is named: PyTorch follows the others, and counts real cores
    if hasattr(os, "sched_getaffinity"):
        limits["the process may run on {}"] = len(os.sched_getaffinity(0))
    if (quota := _cgroup_quota(root)) is not None:
        limits["the control group allows the time of {}"] = max(1, math.floor(quota))
    by = "OMP_NUM_THREADS allows" if os.environ.get("OMP_NUM_THREADS") else "PyTorch would use"
    limits[f"{by} {{}}"] = torch.get_num_threads()
    words, cores = min(limits.items(), key=lambda limit: limit[1])
    if ranks > 1:
        words, cores = f"{ranks} ranks share the machine, {{}} each", max(1, cores // ranks)
    return cores, words.format(f"{cores} core{'s' if cores > 1 else ''}")


def _cgroup_quota(root: Path) -> float | None:
    """Return the least quota of CPU time of the process's control groups, in cores; None without one."""
    quotas = [*_quotas(root, "cpu.max", version=2), *_quotas(root, "cpu.cfs_quota_us", version=1)]
    return min(quotas, default=None)


def _quotas(root: Path, name: str, *, version: int) -> Iterable[float]:
    """Yield the quotas of a group and all groups above it; a container sees its own group as the root."""
    mounted = root / "sys/fs/cgroup" / ("" if version == 2 else "cpu")
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if (version == 2) != (controllers == "") or (version == 1 and "cpu" not in controllers.split(",")):
            continue
        group = mounted / path.lstrip("/")
        for folder in (group, *group.parents):
            words = _read(folder / name).split()
            period = words[1:] if version == 2 else _read(folder / "cpu.cfs_period_us").split()
            if words and words[0].isdigit() and period and period[0].isdigit() and int(period[0]):
                yield int(words[0]) / int(period[0])
            if folder == mounted:
                break


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def multiply_adds(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """Return about how many multiply-adds one sample costs in a forward pass, from shapes alone.

    Each weight counts once for every place at which the model uses it: a layer of a network on points or tokens once a
    point, a convolution once a pixel of the input. Nothing is computed.

    Args:
        model: The model.
        inputs: The properties of one sample that the model is called with.
    """
    shapes = [tuple(value.shape) for value in inputs.values() if isinstance(value, Tensor)]
    widths = {module.in_features for module in model.modules() if isinstance(module, nn.Linear)}
    rows = max([math.prod(shape[:-1]) for shape in shapes if shape and shape[-1] in widths], default=1)
    tokens = max((math.prod(shape) for shape in shapes), default=1)
    has_tokens = any(isinstance(module, nn.Embedding) for module in model.modules())
    total = 0
    for module in model.modules():
        weights = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.Embedding):
            continue  # it looks up, and multiplies nothing
        if isinstance(module, nn.modules.conv._ConvNd):
            spatial = len(module.kernel_size)
            total += weights * max((math.prod(shape[-spatial:]) for shape in shapes if len(shape) > spatial), default=1)
        else:
            total += weights * (tokens if has_tokens else rows)
    return total


def _in_words(number: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return str(number)
