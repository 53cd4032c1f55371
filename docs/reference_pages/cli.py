"""The page of the command line: the help of every verb, as `--help` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import click
import typer

from noether.cli.main import app

_INTRODUCTION = """
# The command

The output of `noether VERB --help`. Exit codes are listed under [errors and exit codes](errors.md). Plugins add verbs:
[add a command](../how-to/add-a-command.md).
"""


def contexts() -> dict[str, click.Context]:
    """Return every command in its context by its words: `noether`, `noether run`, `noether plugins list`."""
    return dict(_below("noether", typer.main.get_command(app), None))


def _below(name: str, command: click.Command, parent: click.Context | None) -> Iterator[tuple[str, click.Context]]:
    word = name.rpartition(" ")[2]
    context = command.make_context(word, [], parent, resilient_parsing=True, terminal_width=100)
    yield name, context
    for verb, below in getattr(context.command, "commands", {}).items():
        yield from _below(f"{name} {verb}", below, context)


def page() -> str:
    """Return the page, without the verbs of the plugins that happen to be installed."""
    with patch("noether.cli.main.installed_commands", tuple):
        sections = [f"## {name}\n\n```text\n{context.get_help()}\n```" for name, context in contexts().items()]
    return "\n\n".join([_INTRODUCTION.strip(), *sections])
