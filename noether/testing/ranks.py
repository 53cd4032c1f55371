"""Ranks for tests: a function runs in several processes at once, as a launcher such as torchrun would start them.

```python
def final_loss(spec):
    return noether.run(spec, quiet=True).metrics["loss/online/total"]


def test_two_ranks_end_with_the_loss_of_one(spec_file):
    spec = spec_file(tiny_spec())
    assert run_on_ranks(final_loss, 2, spec)[0] == pytest.approx(final_loss(spec))
```
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from torch._C._distributed_c10d import TCPStore

from noether.kernel import registry
from noether.kernel.entries import Entry, installed_entries

BOUND_S = 60.0
_PRELOADED = (
    "torch",
    "torch._dynamo",
    "torch.distributed",
    "noether.runs.launch",
    "noether.runs.prepare",
    "noether.core.callbacks.default",
    "noether.core.models.mlp",
    "noether.testing.contract",
    "noether.testing.builders",
    "noether.training.callbacks",
    "noether.training.trainers.weighted_loss",
    "pytest",
)
"""Modules that a rank finds imported, so that it starts within milliseconds."""


class RankError(Exception):
    """Raised where a function has failed on a rank; the message has its traceback and the end of what it printed.

    Attributes:
        ends: The ends of all ranks.
    """

    def __init__(self, message: str, ends: Sequence[RankEnd]) -> None:
        super().__init__(message)
        self.ends = ends


@dataclass(frozen=True, slots=True)
class RankEnd:
    """The end of one rank.

    Attributes:
        rank: Its number.
        exit_code: That of its process; minus the number of a signal that has ended it.
        result: The value that the function has returned.
        error: The traceback of an exception that the function has raised; None without one.
        kind: The name of its class.
        output: The text that the rank has printed.
        seconds: Seconds from the start to its end.
    """

    rank: int
    exit_code: int
    result: Any
    error: str | None
    kind: str | None
    output: str
    seconds: float


class StartedRanks:
    """Processes that run a function as the ranks of one launch; see `started_ranks`."""

    def __init__(self, processes: Sequence[Any], pipes: Sequence[Any], outputs: Sequence[Path], within: float) -> None:
        self._processes, self._pipes, self._outputs = processes, pipes, outputs
        self._started, self._within = monotonic(), within
        self._said: dict[int, Any] = {}
        self._seconds: dict[int, float] = {}

    @property
    def pids(self) -> list[int]:
        """The ids of the processes, by rank."""
        return [process.pid for process in self._processes]

    def send(self, number: int, *ranks: int) -> None:
        """Send a signal to ranks, by default to all."""
        for rank in ranks or range(len(self._processes)):
            with suppress(ProcessLookupError):
                os.kill(self.pids[rank], number)

    def has_ended(self) -> bool:
        """Return True if a rank has ended."""
        return any(process.exitcode is not None for process in self._processes)

    def ends(self) -> list[RankEnd]:
        """Wait for all ranks; return their ends, in the order of ranks.

        Raises:
            RankError: if one does not end within the bound; the message has its stacks.
        """
        deadline = self._started + self._within
        while waiting := [rank for rank in range(len(self._processes)) if rank not in self._seconds]:
            for rank in waiting:
                self._look_at(rank)
            if len(self._seconds) == len(self._processes):
                break
            if monotonic() > deadline:
                hung = [rank for rank in range(len(self._processes)) if rank not in self._seconds]
                self.kill()
                ends = [self._end(rank) for rank in range(len(self._processes))]
                stacks = "\n".join(f"rank {rank}:\n{ends[rank].output[-4000:]}" for rank in hung)
                raise RankError(f"rank {hung} did not end within {self._within:g} s\n{stacks}", ends)
            watched = [self._processes[rank].sentinel for rank in waiting] + [
                self._pipes[rank] for rank in waiting if rank not in self._said
            ]
            connection.wait(watched, max(0.0, deadline - monotonic()))
        return [self._end(rank) for rank in range(len(self._processes))]

    def results(self) -> list[Any]:
        """Wait for all ranks; return what the function has returned on each.

        Raises:
            RankError: if it has failed on one.
        """
        ends = self.ends()
        failed = [end for end in ends if end.error is not None or end.exit_code]
        failed.sort(key=lambda end: end.kind == "RankLostError")  # the consequence of another failure
        if failed:
            end = failed[0]
            words = f"exit code {end.exit_code}" if end.error is None else end.error
            raise RankError(f"rank {end.rank} of {len(ends)}: {words}\n{end.output[-4000:]}", ends)
        return [end.result for end in ends]

    def kill(self) -> None:
        """Kill all that is left, with the children of the ranks."""
        for process in self._processes:
            for send in (os.killpg, os.kill):  # the group is not there yet in the first moment
                with suppress(ProcessLookupError, PermissionError):
                    send(process.pid, signal.SIGKILL)
            process.join()

    def _look_at(self, rank: int) -> None:
        """Take what a rank has sent, and note its end."""
        pipe, process = self._pipes[rank], self._processes[rank]
        if rank not in self._said and pipe.poll():
            try:
                self._said[rank] = pipe.recv_bytes()
            except (EOFError, ConnectionError):
                self._said[rank] = None
        if process.exitcode is not None and (rank in self._said or not pipe.poll()):
            self._seconds[rank] = monotonic() - self._started

    def _end(self, rank: int) -> RankEnd:
        said = self._said.get(rank)
        result, error, kind = (None, None, None) if said is None else pickle.loads(said)  # of our own child
        output = self._outputs[rank].read_text(encoding="utf-8", errors="replace")
        seconds = self._seconds.get(rank, self._within)
        return RankEnd(rank, self._processes[rank].exitcode, result, error, kind, output, seconds)


def run_on_ranks(
    function: Callable[..., Any],
    world: int,
    *arguments: Any,
    within: float = BOUND_S,
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """Call a function in `world` processes, which are the ranks of one launch; return the results, by rank.

    Args:
        function: A function of a module, such as one beside the test; it joins the other ranks by `noether.run`.
        world: Number of ranks.
        *arguments: Its arguments, the same on each rank; they are pickled, as are the results.
        within: Seconds after which ranks that have not ended are killed.
        environment: Variables beside those of this process.

    Raises:
        RankError: if the function has failed on a rank, or does not end.
    """
    with started_ranks(function, world, *arguments, within=within, environment=environment) as ranks:
        return ranks.results()


@contextmanager
def started_ranks(
    function: Callable[..., Any],
    world: int,
    *arguments: Any,
    within: float = BOUND_S,
    environment: Mapping[str, str] | None = None,
) -> Iterator[StartedRanks]:
    """Begin what `run_on_ranks` does, for a test that sends signals to ranks; none of them is left behind.

    Args:
        function: See `run_on_ranks`, as for all other arguments.
        world: Number of ranks.
        *arguments: Its arguments.
        within: Seconds after which ranks that have not ended are killed.
        environment: Variables beside those of this process; a value for one rank has its number: `"NAME@1"`.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
    call = _packed(function, arguments)
    with TemporaryDirectory(prefix="noether-ranks-") as folder, ExitStack() as stack:
        outputs = [Path(folder) / f"{rank}.txt" for rank in range(world)]
        processes, pipes = [], []
        for rank, output in enumerate(outputs):
            output.touch()
            ours, theirs = context.Pipe(duplex=False)
            stack.callback(ours.close)
            variables = _environment(rank, world, store.port, environment or {})
            process = context.Process(
                target=_work, args=(theirs, variables, str(Path.cwd()), str(output), call, within), daemon=False
            )
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        started = StartedRanks(processes, pipes, outputs, within)
        stack.callback(started.kill)
        yield started


def _environment(rank: int, world: int, port: int, more: Mapping[str, str]) -> dict[str, str]:
    shared = {name: value for name, value in more.items() if "@" not in name}
    own = {name.removesuffix(f"@{rank}"): value for name, value in more.items() if name.endswith(f"@{rank}")}
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        **shared,
        **own,
    }


def _packed(function: Callable[..., Any], arguments: Sequence[Any]) -> bytes:
    """Return a call with all that a rank needs for it: what a test has registered, and the files of its modules.

    A test may be imported from a place that is on no path.
    """
    options: dict[str, Any] = {}
    while isinstance(function, partial):
        arguments, options = (*function.args, *arguments), {**function.keywords, **options}
        function = function.func
    known: Callable[[], Sequence[Entry]] = vars(registry)["installed_entries"]
    entries = None if known is installed_entries else known()  # of the fixture `noether_registry`
    registered = [entry.target.partition(":")[0] for entry in entries or () if not entry.is_built_in]
    modules = {
        name: getattr(sys.modules[name], "__file__", None)
        for name in (function.__module__, *registered)
        if name in sys.modules
    }
    call = pickle.dumps((arguments, options))
    return pickle.dumps((modules, entries, function.__module__, function.__qualname__, call))


def _work(pipe: Any, environment: Mapping[str, str], folder: str, output: str, call: bytes, within: float) -> None:
    """Run in the process of a rank."""
    os.setsid()  # with its children, so that all of them can be ended
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8") for number in (1, 2))
    faulthandler.dump_traceback_later(0.9 * within, file=sys.stderr)
    import torch

    torch.set_num_threads(1)
    try:
        result, error, kind = _called(call), None, None
    except Exception as raised:
        result, error, kind = None, traceback.format_exc(), type(raised).__name__
    pipe.send_bytes(pickle.dumps((result, error, kind)))
    pipe.close()
    sys.stdout.flush()
    sys.stderr.flush()


def _called(packed: bytes) -> Any:
    modules, entries, module, name, call = pickle.loads(packed)  # of our own parent
    for each, file in modules.items():
        if file is not None and each not in sys.modules:
            _load(each, file)
    if entries is not None:
        vars(registry)["installed_entries"] = lambda: entries
    function: Any = sys.modules[module]
    for part in name.split("."):
        function = getattr(function, part)
    arguments, options = pickle.loads(call)  # see above
    return function(*arguments, **options)


def _load(name: str, file: str) -> None:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, f"{file} is no module"
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
