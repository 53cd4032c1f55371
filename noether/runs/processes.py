"""Start the ranks of a run on this machine, with torch's elastic launcher; `torchrun` does it on several."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from noether.errors import UsageError
from noether.runs.outcome import EXIT_CODE

ENDED_WITH = "NOETHER_ENDED_WITH"
"""Names a file for the exit code of a run after which ranks shall not start again; their launcher then sees a 0."""
_RESTARTS = "TORCHELASTIC_MAX_RESTARTS"
_FINAL = frozenset({2, 3, 4, EXIT_CODE + signal.SIGINT, EXIT_CODE + signal.SIGTERM, EXIT_CODE + 1})  # 1: SIGHUP
"""Exit codes after which another start would end as this one did, or was not wanted."""


def start_ranks(arguments: Sequence[str], *, ranks: int, restarts: int = 0) -> tuple[int, str | None]:
    """Run `noether` with these arguments in several processes, one for each rank.

    A signal goes to all of them. If one of them ends with an error, the others are ended; then all are started again,
    at most `restarts` times, and continue the run.

    Args:
        arguments: The verb and its arguments, with the id of the run if it may start again.
        ranks: Number of ranks.
        restarts: Most restarts.

    Returns:
        The exit code of the run, and the end of a rank that was killed.

    Raises:
        UsageError: if a launcher has started this process already.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from noether.training.parallel.one import WORLD_SIZE, world_of

    if (world := world_of(os.environ)) != "1":
        raise UsageError(
            f"wrong --nproc: found it in a process that a launcher has started with {WORLD_SIZE}={world}, expected one "
            "of both",
            hint="leave --nproc out, or start noether without the launcher",
        )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a launcher that was killed would be reported with stacks
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"noether-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=restarts,
        monitor_interval=0.1,
    )
    with TemporaryDirectory(prefix="noether-launch-") as folder:
        ended = Path(folder) / "exit-code"
        os.environ[ENDED_WITH] = str(ended)
        code, silent = 0, None
        try:
            elastic_launch(config, sys.executable)("-m", "noether", *arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            code = error.failures.get(0, failure).exitcode
            if failure.exitcode < 0:
                silent = f"rank {rank}, process {failure.pid}, was ended by {signal.Signals(-failure.exitcode).name}"
        except SignalException as stop:
            code = EXIT_CODE + int(stop.sigval)
        finally:
            del os.environ[ENDED_WITH]  # runs of this process end with codes of their own
        with suppress(FileNotFoundError):
            code = int(ended.read_text(encoding="ascii"))
    if code < 0:  # a signal that stops a run has come before it could handle it
        code = EXIT_CODE - code if EXIT_CODE - code in _FINAL else 1
    return code, silent


def exit_code(code: int) -> int:
    """Return the exit code that the launcher of this process shall see for a run that ended with `code`.

    A launcher that restarts ranks takes every other code than 0 for a failure; one that is final is hidden from it.
    """
    if code not in _FINAL:
        return code
    if ended := os.environ.get(ENDED_WITH):
        with suppress(FileExistsError), Path(ended).open("x", encoding="ascii") as file:
            file.write(str(code))
        return 0
    restarts = os.environ.get(_RESTARTS, "0")
    return 0 if code > EXIT_CODE and restarts.isdecimal() and int(restarts) else code
