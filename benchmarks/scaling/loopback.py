"""Measure operations of several ranks on the loopback of this machine, and a durable write.

The processes are spawned here, one thread each, and meet at a port that the system picks. Of each operation the fastest
turn is the figure of the model, because others may use the machine; the median of all turns is kept beside it.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

WORLDS = (2, 4)
SIZES = (8, 1024, 32 * 1024, 2**20, 2**24, 2**26)
WRITTEN = 2**28
TIMEOUT = timedelta(seconds=120)
TURN_BYTES = 2**20
"""Bytes that a turn reduces: few calls a turn, so that a turn seldom loses the processor."""

Timing = dict[str, float]
"""The fastest turn and the median of turns, in seconds."""


def timed(work: Callable[[], Any], before: Callable[[], Any], *, calls: int, turns: int) -> Timing:
    """Return the seconds of one call.

    Args:
        work: Called `calls` times in a turn.
        before: Called before each turn, untimed.
        calls: Calls in a turn.
        turns: Turns, after one that does not count.
    """
    found = []
    for _ in range(turns + 1):
        before()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        found.append((time.perf_counter() - start) / calls)
    return {"best": min(found[1:]), "median": statistics.median(found[1:])}


def rank(number: int, world: int, port: int, sizes: Sequence[int], turns: int) -> None:
    """Take part in all operations as one process; rank 0 leaves the timings in the store."""
    import json

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=TIMEOUT)
    if platform.system() == "Linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=store, rank=number, world_size=world, timeout=TIMEOUT)
    ballot, word = torch.zeros(2, dtype=torch.int32), torch.zeros(2)
    operations: dict[str, Callable[[], Any]] = {
        "vote": lambda: dist.all_reduce(ballot, dist.ReduceOp.MAX),
        "barrier": dist.barrier,
        "broadcast": lambda: dist.broadcast(word, 0),
    }
    found: dict[str, Timing] = {}
    for size in sizes:
        buffer, calls = torch.zeros(size // 4), max(1, min(5, TURN_BYTES // size))
        wanted = turns if calls > 1 else max(3, turns // 10)
        found[str(size)] = timed(lambda: dist.all_reduce(buffer), dist.barrier, calls=calls, turns=wanted)  # noqa: B023
    found |= {name: timed(work, dist.barrier, calls=5, turns=turns) for name, work in operations.items()}
    if number == 0:
        store.set("timings", json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def of_ranks(world: int, sizes: Sequence[int] = SIZES, turns: int = 200) -> dict[str, Timing]:
    """Return the timings of all-reduce by bytes, and of a vote, a barrier and a broadcast.

    Args:
        world: Number of processes.
        sizes: Bytes, multiples of 4.
        turns: Turns of an operation; a tenth of that for large buffers.
    """
    import json

    import torch.distributed as dist
    import torch.multiprocessing as processes

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
    processes.spawn(rank, (world, store.port, tuple(sizes), turns), nprocs=world)
    return json.loads(store.get("timings"))


def of_writes(folder: Path, size: int = WRITTEN, turns: int = 5) -> dict[str, Any]:
    """Return the timings of a large fsynced write, and of a small one with a rename, as a commit makes it."""
    block = os.urandom(min(size, 2**24))

    def write(path: Path, times: int, data: bytes) -> None:
        with path.open("wb") as file:
            for _ in range(times):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def commit() -> None:
        write(place / "new", 1, block[:4096])
        (place / "new").replace(place / "committed")
        handle = os.open(place, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    def nothing() -> None:
        pass

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        place = Path(temporary)
        written = size // len(block) * len(block)
        large = timed(lambda: write(place / "large", size // len(block), block), nothing, calls=1, turns=turns)
        return {"bytes": written, "write": large, "commit": timed(commit, nothing, calls=1, turns=4 * turns)}


def measured(folder: Path) -> dict[str, Any]:
    """Return all timings of this machine, with its description.

    Args:
        folder: A folder on the disk to write to.
    """
    import torch

    ranks = {str(world): of_ranks(world) for world in WORLDS}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "load": round(os.getloadavg()[1], 1),
        "ranks": ranks,
        "disk": of_writes(folder),
    }
