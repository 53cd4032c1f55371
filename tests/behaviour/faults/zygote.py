"""A process with all imports of a run, which forks one child for each attempt.

`python zygote.py` reads a line of JSON for each attempt, the arguments of `noether.run`. The first line is run in the
zygote itself, so that its children find every module imported. For each line that follows it prints the child's process
id, and how the child ended once it has: an exit code, or a signal as a negative number. It is reaped only when the next
line comes, so that until then its id can be no other process's.
"""

import json
import os
import sys
from pathlib import Path

import torch

import noether


def attempt(options: dict) -> None:
    """Run in the child, in a session of its own, and end with the run's exit code."""
    os.setsid()
    say(os.getpid())
    with Path("attempts.txt").open("a") as said:
        for descriptor in (1, 2):
            os.dup2(said.fileno(), descriptor)
    code = 70
    try:
        outcome = noether.run(options.pop("spec"), **options)
        if outcome.error is not None:
            print(repr(outcome.error), file=sys.stderr)
        code = outcome.exit_code
    except Exception as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def say(number: int) -> None:
    os.write(1, b"%d\n" % number)


def main() -> None:
    torch.set_num_threads(1)
    options = json.loads(sys.stdin.readline())
    outcome = noether.run(options.pop("spec"), **options)
    say(outcome.exit_code)
    child = None
    for line in sys.stdin:
        if child is not None:
            os.waitpid(child, 0)
        child = os.fork()
        if child == 0:
            attempt(json.loads(line))
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        say(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)


if __name__ == "__main__":
    main()
