"""A process with all imports of a run, which forks one child for each attempt at a run or delivery of it.

`python attempts.py` reads a line of JSON for each child: the arguments of `noether.run` (with `spec`) or of
`sync_trackers`. The first line is run in this process, so that the children find every module imported. For each line
that follows it prints the child's process id, and how the child ended once it has: an exit code, or a signal as a
negative number.
"""

import json
import os
import sys
from pathlib import Path

import mlflow  # noqa: F401  # its import is not what is tried
import torch

import noether
from noether.metrics.feed import TrackerFeed
from noether.runs.tracking.sync import sync_trackers

ANSWERS = os.dup(1)


def work(options: dict) -> int:
    if "spec" in options:
        outcome = noether.run(options.pop("spec"), quiet=True, **options)
        if outcome.error is not None:
            print(repr(outcome.error))
        return outcome.exit_code
    results = list(sync_trackers(**options))
    print(*results, sep="\n")
    return int(any(synced.error for synced in results))


def child(options: dict) -> None:
    os.setsid()
    say(os.getpid())
    code = 70
    try:
        code = work(options)
    except BaseException as error:
        print(repr(error))
    finally:
        sys.stdout.flush()
        os._exit(code)


def say(number: int) -> None:
    os.write(ANSWERS, b"%d\n" % number)


def main() -> None:
    with Path("attempts.txt").open("a") as said:
        for descriptor in (1, 2):
            os.dup2(said.fileno(), descriptor)
    torch.set_num_threads(1)
    TrackerFeed.__init__.__kwdefaults__["interval_s"] = 0.01  # many small batches
    say(work(json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
        _, status = os.waitpid(pid, 0)
        say(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
