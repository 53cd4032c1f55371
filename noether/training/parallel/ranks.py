"""Ranks: the processes that a launcher such as torchrun has started for one run, joined by torch.distributed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.nn.parallel import DistributedDataParallel

from noether.data.randomness import mix, seed_sample
from noether.errors import NoetherError, SpecError, TrainingError, UsageError, error_text, notes_of
from noether.kernel.watchdog import write_stacks
from noether.optim.kernels import is_sharded
from noether.training.parallel.gradients import of_all_ranks
from noether.training.parallel.one import WORLD_SIZE, Parallel, Place, Single, restarts_in, timeout_in, world_of

T = TypeVar("T")
_FAILED, _HANGS, _PLACE = "failed", "hangs", "place"
_LOOKS_EVERY_S, _ANSWER_S = 0.5, 2.0
_LOGS = "the logs of the other ranks are log.rank-*.txt in the run folder"
_GONE = ("onnection", "peer", "Broken pipe")
"""Words in the errors of operations whose other end is gone; any other error is this rank's own."""
_ORPHAN_GRACE_S = 30.0
_JOINS = count()
"""Runs of this process that had other ranks: each has keys of its own in the store."""


class RankLostError(TrainingError):
    """Raised where other ranks are waited for in vain; it is reported if the one that has failed has left a message.

    Attributes:
        exit_code: That of the rank that has failed, if it is known.
    """

    exit_code: int = TrainingError.exit_code  # type: ignore[misc]  # of an instance here


_active: Parallel | None = None


def parallel_of(environment: Mapping[str, str] = os.environ) -> Parallel:
    """Return the ranks of the run under way in this process.

    Raises:
        UsageError: if a launcher has started several processes, and what runs in them is no training.
    """
    if _active is not None:
        return _active
    world = world_of(environment)
    if world != "1":
        raise UsageError(
            f"wrong {WORLD_SIZE}: found {world}, expected 1 here: only `noether run` and `resume` work on several "
            "ranks",
            hint=f"start one process without torchrun, or unset {WORLD_SIZE}",
        )
    return Single(*restarts_in(environment))


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Parallel]:
    """Join the other ranks that the launcher has started; inside, `parallel_of` returns all of them.

    An error of this rank inside is reported to the others before they are left.

    Raises:
        UsageError: if the environment describes no complete launch.
        RankLostError: if the others do not come.
    """
    global _active
    place = Place.of(environment) if _active is None else None
    if place is None:
        yield parallel_of(environment)
        return
    ranks = Ranks(place, timeout_in(environment))
    _active = ranks
    try:
        yield ranks
    except BaseException as error:
        ranks.report(error)
        raise
    finally:
        _active = None
        ranks.leave()


def _store_of_group() -> Store:
    """Return a connection of its own to the store of the process group that exists already.

    Raises:
        UsageError: if the group cannot reduce tensors on the CPU.
    """
    backends = dist.get_backend_config()
    if "cpu:" not in backends:
        raise UsageError(
            f"wrong process group: found the backends {backends!r}, expected one for the CPU among them",
            hint='initialise the group with the backend "cpu:gloo,cuda:nccl"',
        )
    store: Any = dist.distributed_c10d._get_default_store()
    own: Store = store.clone()
    return own


class Ranks:
    """The process group of a run, with what its ranks agree on.

    A second group on the CPU serves votes and objects, so that neither waits for an accelerator. A process group that
    exists already is used, and left as it is in the end.

    Args:
        place: The place of this process.
        timeout: Seconds in which every rank has to come to a common operation.

    Attributes:
        place: The place of this process.
    """

    def __init__(self, place: Place, timeout: float) -> None:
        self.place = place
        self.world, self.rank = place.world, place.rank
        self.is_writer = place.rank == 0
        self.local_world, self.attempt, self.restarts = place.local_world, place.attempt, place.restarts
        self.timeout = timeout
        self._thread = threading.get_ident()
        self._aim: str | None = None  # the common operation that this rank is in
        self._left = threading.Event()
        self._hangs: Callable[[], object] = partial(write_stacks, 2, f"rank {place.rank} was waited for in vain")
        limit = timedelta(seconds=timeout)
        self._owns_group = not dist.is_initialized()
        # A process may train several runs one after the other: keys of an earlier one are not those of this one.
        keys = f"noether/{place.attempt}/{next(_JOINS)}"
        self._store = PrefixStore(keys, self._reached(limit) if self._owns_group else _store_of_group())
        with self._waiting("join"):
            if self._owns_group:
                self._form(limit)
            self._group = dist.new_group(backend="gloo", timeout=limit)
        self._ballot = torch.zeros(2, dtype=torch.int64)
        self._cast: Any = None
        self._watch = threading.Thread(target=self._look_around, name="noether-ranks", daemon=True)
        self._watch.start()

    def _reached(self, limit: timedelta) -> Store:
        """Return the store of this launch; rank 0 serves it if the launcher does not."""
        place = self.place
        serves = self.is_writer and not place.has_store
        try:
            return TCPStore(place.host, place.port, place.world, serves, limit, multi_tenant=True)
        except (RuntimeError, dist.DistError) as error:
            raise RankLostError(
                f"rank {self.rank} does not reach the others: found no store at {place.host}:{place.port} within "
                f"{self.timeout:g} s",
                hint="check MASTER_ADDR and MASTER_PORT, and that rank 0 has started",
            ) from error

    def _form(self, limit: timedelta) -> None:
        """Form the process group; one that exists already keeps its backends, its timeout and its device."""
        backends = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(self.place.local_rank)
            backends = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backends, store=self._store, rank=self.rank, world_size=self.world, timeout=limit)

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        """Return itself: a copy of a model has the same ranks."""
        return self

    # The model

    def builds_on(self, config: Any, device: torch.device) -> torch.device:
        """Return the device on which this rank builds the model; of a sharded one, rank 0 alone has all values."""
        if config.parallel != "fsdp2":
            return device
        return torch.device("cpu" if self.is_writer else "meta")

    def prepare(self, model: nn.Module, config: Any, device: torch.device) -> nn.Module:
        """Return the model as the forward pass calls it; its batch norms become those of all ranks.

        Raises:
            SpecError: if the model has a train step of its own, which a wrapper would not see.
        """
        of_all_ranks(model, self)
        if config.parallel == "fsdp2":
            from noether.training.parallel.sharded import shard  # its imports take a second

            with self._waiting("shard the model"):
                return shard(model, config, self, device)
        if config.reduce != "ddp" or not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        if callable(getattr(model, "train_step", None)):
            raise SpecError(
                'wrong trainer.reduce: found "ddp" for a model with a train_step of its own, expected "exact"',
                hint='set reduce = "exact" under [trainer]',
            )
        return DistributedDataParallel(
            model,
            broadcast_buffers=False,  # they are equal on all ranks, and an evaluation may have other batches on each
            find_unused_parameters=config.find_unused_params,
            static_graph=config.static_graph,
            init_sync=False,  # `begin` does it, once weights are loaded
        )

    def check(self, trainer: Any, model: Any) -> None:
        """Check that a trainer, its callbacks and optimizers built, can train a prepared model on these ranks.

        Raises:
            SpecError: if it does not fit a sharded model.
        """
        if any(map(is_sharded, model.parameters())):
            from noether.training.parallel.sharded import require_shardable

            require_shardable(trainer)

    def begin(self, model: nn.Module, seed: int) -> None:
        """Give all ranks the weights and buffers of the writer, and every other rank its own random numbers."""
        with torch.no_grad(), self._waiting("begin training"):
            for tensor in (*model.parameters(), *model.buffers()):
                if is_sharded(tensor):
                    continue  # its parts differ
                dist.broadcast(tensor.detach(), 0)
        if not self.is_writer:
            seed_sample(mix(seed, self.rank))

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which backward passes do not exchange gradients."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    # Operations

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; the tensor itself is overwritten."""
        with self._waiting("add up values"):
            dist.all_reduce(value)
        return value

    def vote(self, signal: int | None, stops: bool, *, now: bool) -> tuple[int | None, bool]:
        """Return the signal, and True for a stop, if a rank has passed one at this boundary or the one before."""
        with self._waiting("vote"):
            found = self._counted()
            self._ballot[0], self._ballot[1] = signal or 0, stops
            self._cast = dist.all_reduce(self._ballot, dist.ReduceOp.MAX, group=self._group, async_op=True)
            if now:
                found = [max(pair) for pair in zip(found, self._counted(), strict=True)]
        return found[0] or None, bool(found[1])

    def _counted(self) -> list[int]:
        cast, self._cast = self._cast, None
        if cast is None:
            return [0, 0]
        cast.wait()
        return self._ballot.tolist()

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in the order of ranks."""
        found: list[Any] = [None] * self.world
        with self._waiting("collect values"):
            dist.all_gather_object(found, value, group=self._group)
        return found

    def share(self, value: T) -> T:
        """Return the value of the writer."""
        box = [value]
        with self._waiting("hear from rank 0"):
            dist.broadcast_object_list(box, 0, group=self._group)
        return box[0]

    # Failures

    @contextmanager
    def _waiting(self, aim: str) -> Iterator[None]:
        """Explain an operation that fails because other ranks do not take part in it."""
        self._aim = aim
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            raise self._lost(aim, error) from error
        finally:
            self._aim = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Train until all ranks are done; explain errors of torch's own operations, as of a sharded forward pass."""
        try:
            yield
            self.gather(None)
        except (RuntimeError, dist.DistError) as error:
            if isinstance(error, dist.DistError) or "gloo/" in str(error):
                raise self._lost("compute", error) from error
            raise

    def _lost(self, aim: str, error: Exception) -> RankLostError:
        said = self._said()
        if said is not None:
            lost = RankLostError(f"rank {said['rank']}: {said['text']}", hint=_LOGS)
            lost.exit_code = said["code"]
            lost.is_reported = not self.is_writer  # which repeats it, since its own log and record have it
            return lost
        if "imed out" in str(error) or "imeout" in str(error):
            places = "; ".join(self._places()) or "they do not answer"
            return RankLostError(
                f"rank {self.rank} waited {self.timeout:g} s in vain for other ranks to {aim}: {places}", hint=_LOGS
            )
        if any(word in str(error) for word in _GONE):
            return RankLostError(
                f"another rank has ended without a message while rank {self.rank} waited for it to {aim}", hint=_LOGS
            )
        return RankLostError(f"rank {self.rank} could not {aim}: {error_text(error)}", hint=_LOGS)

    def _places(self) -> list[str]:
        """Ask the ranks for their places; return those of the ranks that do not wait for others."""
        with suppress(RuntimeError, dist.DistError):
            self._store.set(_HANGS, str(self.rank))
            self._left.wait(_ANSWER_S)
            keys = [(rank, f"{_PLACE}/{rank}") for rank in range(self.world)]
            return [f"rank {rank} {self._store.get(key).decode()}" for rank, key in keys if self._store.check([key])]
        return []

    def _said(self) -> dict[str, Any] | None:
        """Return message and code of the rank that has failed first; None if there is none, or its machine is gone."""
        for _ in range(4):
            try:
                if self._store.check([_FAILED]):
                    return dict(json.loads(self._store.get(_FAILED)))
            except (RuntimeError, dist.DistError):
                return None
            self._left.wait(0.1)
        return None

    def on_hang(self, call: Callable[[], object]) -> None:
        """Call this, in a thread of its own, if another rank has waited in vain for this one."""
        self._hangs = call

    def report(self, error: BaseException) -> None:
        """Tell the other ranks the reason for which this one leaves; the first message counts, and is printed once."""
        if isinstance(error, RankLostError):
            return
        text, code = type(error).__name__, TrainingError.exit_code
        if isinstance(error, NoetherError):
            text, code = error.message, error.exit_code
        elif isinstance(error, Exception):
            text = error_text(error)
        own = {"text": "; ".join([text, *notes_of(error)])[:2000], "code": code}
        with suppress(RuntimeError, dist.DistError):
            body = json.dumps({"rank": self.rank, **own})
            first = json.loads(self._store.compare_set(_FAILED, "", body))
            is_same = first["rank"] != self.rank and first == {**own, "rank": first["rank"]}
            if is_same and isinstance(error, NoetherError) and (not self.is_writer or first["rank"] < self.local_world):
                error.is_reported = True  # on the terminal of this machine, or on that of rank 0
                self._left.wait(_LOOKS_EVERY_S)  # the launcher ends the others when this one has ended

    def leave(self) -> None:
        """Leave the process group, without waiting for the others."""
        self._left.set()
        self._watch.join()
        with suppress(RuntimeError, dist.DistError):
            if self._cast is not None:  # a thread that is at work when the process ends would abort it
                self._cast.wait(timedelta(seconds=_ANSWER_S))
        with suppress(RuntimeError, dist.DistError):
            dist.destroy_process_group(None if self._owns_group else self._group)

    def _look_around(self) -> None:
        """End the run if its launcher is gone, or if another rank has waited in vain for this one."""
        launcher = os.getppid()
        while not self._left.wait(_LOOKS_EVERY_S):
            if os.getppid() != launcher:
                os.kill(os.getpid(), signal.SIGTERM)
                self._end_after(_ORPHAN_GRACE_S)
                return
            with suppress(RuntimeError, dist.DistError):
                if self._store.check([_HANGS]):
                    self._answer()
                    return

    def _answer(self) -> None:
        """Tell the ranks that wait for this one the place where it is, write the stacks, and end it."""
        if self._aim is None:
            frame = sys._current_frames().get(self._thread)
            place = f"is at {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "has ended"
            self._store.set(f"{_PLACE}/{self.rank}", place)
        self._hangs()
        self._end_after(_ANSWER_S * 2)

    def _end_after(self, seconds: float) -> None:
        if not self._left.wait(seconds):
            os._exit(TrainingError.exit_code)
