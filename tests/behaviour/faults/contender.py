"""A process that contends for a run, told step by step what to do.

`python contender.py NAME` reads orders, one a line, and answers each with a line of JSON. `begin RUN` forks a child,
which answers with its process id and takes the orders that follow: `start`, `copy`, `write`, `end`. Once the child has
ended, in whatever way, the process answers `null`; it takes the order `over` then, at which the worker that the child
has forked ends as well.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from noether.checkpoint.commit import RunLostError
from noether.errors import UsageError
from noether.runs.folder import lock
from noether.runs.folder.lock import RunLock

lock._PATIENCE_S = 0.02  # nothing here is in a hurry


def answer(value: object) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


def order() -> str:
    line = b""
    while not line.endswith(b"\n"):
        letter = os.read(0, 1)
        if not letter:
            os._exit(0)
        line += letter
    return line.decode().rstrip()


def fork_worker(alive: int) -> None:
    """Fork a worker that lives until the scenario is over, whatever becomes of its parent."""
    if os.fork() == 0:
        os.read(alive, 1)
        os._exit(0)


def contend(name: str, run: Path, alive: int) -> None:
    own = RunLock(run)
    answer(os.getpid())
    while (now := order()) != "end":
        if now == "start":
            try:
                own.__enter__()
            except UsageError as error:
                answer(error.message)
                continue
            fork_worker(alive)
            answer("started")
        elif now == "copy":
            copy = run.with_name(f"copy-of-{name}")
            shutil.copytree(run, copy)
            shutil.rmtree(copy)
            answer("copied")
        elif now == "write":
            try:
                own.require_own()
            except RunLostError:
                answer("refused")
                continue
            with (run / "written").open("a") as written:
                written.write(name)
            answer("written")
    own.__exit__()
    os._exit(0)


def main(name: str) -> None:
    while True:
        run = Path(order().removeprefix("begin "))
        alive, over = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(over)
            contend(name, run, alive)
        os.close(alive)
        os.waitpid(child, 0)
        answer(None)
        assert order() == "over"
        os.close(over)


if __name__ == "__main__":
    main(sys.argv[1])
