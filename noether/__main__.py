"""The command `noether`, also as `python -m noether`."""

import gc

from noether.cli.interrupts import CTRL_C


def main() -> None:
    """Listen to Ctrl-C, then import and run the command line.

    Nothing that it imports becomes garbage, so no collection looks at it, the ones at the exit included: they would
    take a tenth of the time of `--help`.
    """
    CTRL_C.listen()
    gc.disable()
    from noether.cli.main import main as command

    gc.freeze()
    gc.enable()
    command()


if __name__ == "__main__":
    main()
