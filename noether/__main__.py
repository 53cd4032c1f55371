"""`python -m noether` is the command `noether`."""

from noether.cli.main import main

main()
