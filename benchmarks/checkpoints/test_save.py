"""The cost of a save, beside raw write, sha256 and fsync of the same bytes, and beside building each file in memory.

A disk that others use too varies by more than what is measured: each round measures all sides, the median of the
rounds' ratios counts, and where the raw saves alone vary by more than `NOISE`, it is only reported. The gate compares
no ratio of a disk: it counts Python calls, which grow with whatever is done for each tensor.
"""

from __future__ import annotations

import cProfile
import hashlib
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.torch import save
from torch import Tensor

from benchmarks.counting import uncollected
from noether.checkpoint.paths import PathProvider, read_checkpoint
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter

ROUNDS = 9
GOAL = 1.3
NOISE = 0.15
"""Distance of the quartiles of the raw saves, as a share of their median, up to which ratios are judged."""
GOAL_OF_SMALL = 4  # it was 7 before small tensors were joined
FEW_LARGE = {"tensors": 8, "values": 1 << 20}  # 96 MB, with two moments for each value
MANY_SMALL = {"tensors": 3000, "values": 1 << 10}  # 37 MB in 9,000 tensors


def state(tensors: int, values: int) -> CheckpointState:
    generator = torch.Generator().manual_seed(0)
    model = {f"layers.{index}.weight": torch.randn(values, generator=generator) for index in range(tensors)}
    moments = {f"model/{name}/{key}": tensor.square() for name, tensor in model.items() for key in ("m", "v")}
    counters = {"epoch": 1, "update": 6, "sample": 24}
    trainer: dict[str, Any] = {"optimizer_values": {"model": {}}, "trainer": counters, "callbacks": {}, "data": {}}
    return CheckpointState(1, 6, 24, model=model, optimizer_tensors=moments, ranks=[{}], **trainer)


def saved(found: CheckpointState, folder: Path) -> Path:
    writer = CheckpointWriter(PathProvider(folder, "run"))
    writer.prepare()
    writer.save()
    step = writer.commit(found)
    assert step is not None
    return step


def timed(call: Callable[[], object]) -> float:
    os.sync()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def our_save(found: CheckpointState, folder: Path) -> float:
    writer = CheckpointWriter(PathProvider(folder, "run"))
    writer.prepare()
    writer.save()
    seconds = timed(lambda: writer.commit(found))
    shutil.rmtree(folder)
    return seconds


def raw_save(files: dict[str, bytes], folder: Path) -> float:
    """Write, hash and sync the same files with nothing around it."""
    folder.mkdir()

    def write() -> None:
        for name, data in files.items():
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            hashlib.sha256(data).hexdigest()
            os.fsync(descriptor)
            os.close(descriptor)

    seconds = timed(write)
    shutil.rmtree(folder)
    return seconds


def obvious_save(found: CheckpointState, folder: Path) -> float:
    """Copy every tensor, build each file in memory, hash it, write it."""
    groups: dict[str, dict[str, Tensor]] = {"a": dict(found.model), "b": dict(found.optimizer_tensors)}
    folder.mkdir()

    def write() -> None:
        for name, group in groups.items():
            data = save({key: tensor.cpu().contiguous().clone() for key, tensor in group.items()})
            hashlib.sha256(data).hexdigest()
            with (folder / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    seconds = timed(write)
    shutil.rmtree(folder)
    return seconds


def compare(found: CheckpointState, tmp_path: Path, benchmark: BenchmarkFixture) -> tuple[float, float, bool]:
    """Return the medians of our seconds above those of the raw and the obvious save, and if they can be judged."""
    files = {
        name.replace("/", "_"): data for name, data in read_checkpoint(saved(found, tmp_path / "first"))[1].items()
    }
    size = sum(map(len, files.values()))
    rounds = [
        (
            our_save(found, tmp_path / f"ours{index}"),
            raw_save(files, tmp_path / f"raw{index}"),
            obvious_save(found, tmp_path / f"obvious{index}"),
        )
        for index in range(ROUNDS)
    ]
    ratio = statistics.median(ours / raw for ours, raw, _ in rounds)
    low, middle, high = statistics.quantiles((raw for _, raw, _ in rounds), n=4)
    ours, raw, obvious = (statistics.median(side) for side in zip(*rounds, strict=True))
    benchmark.extra_info.update(
        of_raw=ratio, megabytes=size / 1e6, ours=ours, raw=raw, obvious=obvious, megabytes_a_second=size / 1e6 / ours
    )
    counted = iter(range(100))
    benchmark.pedantic(lambda: our_save(found, tmp_path / f"counted{next(counted)}"), rounds=3)
    print(f"\n{size / 1e6:.0f} MB: ours {ours:.3f} s, raw {raw:.3f} s, obvious {obvious:.3f} s, ratio {ratio:.2f}")
    return ratio, statistics.median(ours / obvious for ours, _, obvious in rounds), high - low <= NOISE * middle


def test_a_save_of_large_tensors_costs_little_more_than_its_bytes(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    ratio, _, is_quiet = compare(state(**FEW_LARGE), tmp_path, benchmark)
    assert ratio <= GOAL or not is_quiet


def test_a_save_of_many_small_tensors_costs_less_than_the_obvious_one(
    tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    """Measure the time for each tensor, as the bytes are few."""
    found = state(**MANY_SMALL)
    ratio, against_obvious, is_quiet = compare(found, tmp_path, benchmark)
    benchmark.extra_info["counts"] = {"python calls for each tensor": calls_of_a_save(found, tmp_path)}
    assert (ratio <= GOAL_OF_SMALL and against_obvious < 1) or not is_quiet


def calls_of_a_save(found: CheckpointState, folder: Path) -> float:
    """Return the Python calls of a save for each of its tensors, built-in functions included."""
    profile = cProfile.Profile()
    with uncollected(), profile:
        our_save(found, folder / "profiled")
    calls = sum(entry.callcount for entry in profile.getstats())  # type: ignore[attr-defined]  # not in the stubs
    return round(calls / (len(found.model) + len(found.optimizer_tensors)), 1)
