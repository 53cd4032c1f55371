"""The command `noether`, also as `python -m noether`."""

from noether.cli.interrupts import CTRL_C


def main() -> None:
    """Listen to Ctrl-C, then import and run the command line."""
    CTRL_C.listen()
    from noether.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
