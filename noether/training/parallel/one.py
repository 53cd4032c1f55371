"""Parallel: operations that involve all ranks of a run; the run of one process; the place of a process in a launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from noether.errors import UsageError

T = TypeVar("T")


class Parallel(Protocol):
    """Operations of a run that involve all of its ranks. Every rank calls the same ones, in the same order.

    Attributes:
        world: Number of ranks.
        rank: Number of this process, from 0.
        is_writer: True on the rank that writes metrics, checkpoints and the run folder: rank 0.
        local_world: Ranks on this machine.
        attempt: Restarts of the launcher so far.
        restarts: Most restarts.
    """

    local_world: int
    attempt: int
    restarts: int

    @property
    def world(self) -> int:
        """Return the number of ranks."""

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0."""

    @property
    def is_writer(self) -> bool:
        """Return True on the rank that writes metrics, checkpoints and the run folder."""

    def builds_on(self, config: Any, device: torch.device) -> torch.device:
        """Return the device on which this rank builds the model: `meta` if it gets its values from rank 0.

        Args:
            config: The trainer's config.
            device: Device of the run.
        """

    def prepare(self, model: nn.Module, config: Any, device: torch.device) -> nn.Module:
        """Return the model as the forward pass calls it; called before weights are loaded and optimizers are built.

        Args:
            model: The model, on its device unless it will be sharded; its batch norms may become those of all ranks.
            config: The trainer's config, with `parallel`, `shard`, `reduce`, `find_unused_params` and `static_graph`.
            device: Device of the run.
        """

    def check(self, trainer: Any, model: Any) -> None:
        """Check that a trainer, its callbacks and optimizers built, can train a prepared model on these ranks."""

    def begin(self, model: nn.Module, seed: int) -> None:
        """Give all ranks the same weights and buffers, and each its own random numbers, before the first update."""

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which backward passes do not exchange gradients: all accumulation steps but the last."""

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""

    def vote(self, signal: int | None, stops: bool, *, now: bool) -> tuple[int | None, bool]:
        """Return the signal, and True for a stop, if any rank has passed one at this boundary or the one before.

        Args:
            signal: Number of a signal that this process has got.
            stops: True if it wants to end training.
            now: Wait for the votes of this boundary; otherwise those of the one before count.
        """

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in the order of ranks; each may be any object, its tensors on the CPU."""

    def share(self, value: T) -> T:
        """Return the value of the writer."""

    def on_hang(self, call: Callable[[], object]) -> None:
        """Call this, in a thread of its own, if another rank has waited in vain for this one."""

    def together(self) -> AbstractContextManager[None]:
        """Return a context for training, which all ranks end if none fails in it."""

    def report(self, error: BaseException) -> None:
        """Tell the other ranks the reason for which this one leaves."""


class Single:
    """A run of one process: collective operations return their argument.

    Args:
        attempt: Restarts of its launcher so far, if it has one.
        restarts: Most restarts.
    """

    world = local_world = 1
    rank = 0
    is_writer = True

    def __init__(self, attempt: int = 0, restarts: int = 0) -> None:
        self.attempt, self.restarts = attempt, restarts

    def builds_on(self, config: Any, device: torch.device) -> torch.device:
        """Return the device."""
        return device

    def prepare(self, model: nn.Module, config: Any, device: torch.device) -> nn.Module:
        """Return the model itself."""
        return model

    def check(self, trainer: Any, model: Any) -> None:
        """Do nothing."""

    def begin(self, model: nn.Module, seed: int) -> None:
        """Do nothing."""

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return an empty context."""
        return nullcontext()

    def reduce(self, value: Tensor) -> Tensor:
        """Return the tensor itself."""
        return value

    def vote(self, signal: int | None, stops: bool, *, now: bool) -> tuple[int | None, bool]:
        """Return the arguments."""
        return signal, stops

    def gather(self, value: T) -> list[T]:
        """Return the one value."""
        return [value]

    def share(self, value: T) -> T:
        """Return the value."""
        return value

    def on_hang(self, call: Callable[[], object]) -> None:
        """Do nothing: nobody waits."""

    def together(self) -> AbstractContextManager[None]:
        """Return an empty context."""
        return nullcontext()

    def report(self, error: BaseException) -> None:
        """Do nothing."""


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
    def of(cls, environment: Mapping[str, str]) -> Place | None:
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
