"""Place: the number of a process among the ranks that a launcher has started, as the environment describes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch.distributed as dist

from noether.errors import UsageError

WORLD_SIZE = "WORLD_SIZE"
"""Set by launchers such as torchrun: the number of processes that train together."""

TIMEOUT_S = 600.0
"""Seconds in which every rank has to come to a common operation; then the run ends with the stacks of all ranks."""
TIMEOUT = "NOETHER_RANK_TIMEOUT_S"

_PORTS, _RANKS, _LONGEST_S = 65535, 1_000_000, 1e7
"""The largest number of a port, and those of ranks and seconds, far below what torch can take."""
_NEEDED = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Place:
    """The place of this process in a launch.

    Attributes:
        rank: Number among all ranks.
        world: Number of ranks.
        local_rank: Number among the ranks of this machine.
        local_world: Ranks of this machine.
        host: Machine of the store.
        port: Port of the store.
        attempt: Restarts so far.
        restarts: Most restarts.
        has_store: True if the launcher serves the store.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    host: str
    port: int
    attempt: int
    restarts: int
    has_store: bool

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Place | None:
        """Return the place that a launcher has described in the environment; None for a process of its own.

        A process group that exists already, as in a worker of Ray Train, comes first.

        Raises:
            UsageError: if the description is incomplete, no number of ranks, or not that of the process group.
        """
        if dist.is_available() and dist.is_initialized():
            environment = _of_group(environment)
        world = world_of(environment)
        if world == "1":
            return None
        missing = [name for name in _NEEDED if not environment.get(name, "").strip()]
        names = ", ".join(missing)
        if missing:
            raise UsageError(
                f"wrong launch: found {WORLD_SIZE}={world} without {names}, expected all that torchrun sets",
                hint=f"start the ranks with --nproc N or torchrun, or unset {WORLD_SIZE}",
            )
        named = (WORLD_SIZE, *(name for name in _NEEDED if name != "MASTER_ADDR"))
        for name in named:
            if not environment[name].strip().isdecimal():
                raise UsageError(f"wrong {name}: found {environment[name]!r}, expected a number of 0 or more")
            if int(environment[name]) > (most := _PORTS if name == "MASTER_PORT" else _RANKS):
                raise UsageError(f"wrong {name}: found {environment[name]}, expected at most {most}")
        total, rank, local, local_world, port = (int(environment[name]) for name in named)
        if not (rank < total and local < local_world <= total):
            raise UsageError(
                f"wrong launch: found rank {rank} of {total}, and {local} of {local_world} on this machine, expected "
                "each rank below the number of ranks",
                hint=f"start the ranks with --nproc N or torchrun, or unset {WORLD_SIZE}",
            )
        attempt, restarts = restarts_in(environment)
        served = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        host = environment["MASTER_ADDR"].strip()
        return cls(rank, total, local, local_world, host, port, attempt, restarts, served)


def world_of(environment: Mapping[str, str]) -> str:
    """Return the number of ranks as the environment has it."""
    return environment.get(WORLD_SIZE, "").strip() or "1"


def restarts_in(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return how often the launcher has started this process again, and how often it may."""
    attempt, most = (_count(environment.get(f"TORCHELASTIC_{name}")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return attempt, most


def timeout_in(environment: Mapping[str, str]) -> float:
    """Return the seconds that a rank waits for the others."""
    text = environment.get(TIMEOUT, "")
    try:
        seconds = float(text or TIMEOUT_S)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= _LONGEST_S:
        raise UsageError(f"wrong {TIMEOUT}: found {text!r}, expected seconds above 0, at most {_LONGEST_S:g}")
    return seconds


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _of_group(environment: Mapping[str, str]) -> dict[str, str]:
    """Describe a process group that exists already; its ranks need no address to meet."""
    group = {WORLD_SIZE: str(dist.get_world_size()), "RANK": str(dist.get_rank())}
    for name, value in group.items():
        found = environment.get(name, "").strip() or value
        if found != value:
            raise UsageError(
                f"wrong {name}: found {found}, expected {value}, that of the process group in this process",
                hint=f"unset {name}, or destroy the process group first",
            )
    return {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", **environment, **group}
