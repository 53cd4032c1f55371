"""The documentation mentions only verbs and options of the command that exist."""

import re
import shlex
import tomllib
from collections.abc import Collection

import click
import pytest
import typer

from noether.cli.main import app

_PROMPT = re.compile(r"^\s*(\$ )?(\.venv/bin/)?")
_IN_PROSE = re.compile(r"`(noether [^`]*)`")


def commands_in(page) -> list[str]:
    """Return the commands of a page: lines of console blocks, and `noether …` in a sentence."""
    blocks = [block for language in ("console", "sh", "bash") for block in page.blocks(language)]
    lines = [_PROMPT.sub("", part) for block in blocks for part in re.split(r"\n|&&", block.text)]
    return [line for line in lines if line.startswith("noether ")] + _IN_PROSE.findall(page.prose)


def own_verbs(page) -> set[str]:
    """Return the verbs that a page adds with a plugin of its own."""
    points = [tomllib.loads(block.text).get("project", {}).get("entry-points", {}) for block in page.blocks("toml")]
    return {verb for groups in points for verb in groups.get("noether.commands", {})}


def problem_of(line: str, added: Collection[str] = ()) -> str | None:
    """Return the part of a line that the command does not know; words in capitals stand for anything."""
    command: click.Command = typer.main.get_command(app)
    if line.split()[1].rpartition("/")[2] in added:
        return None
    for word in shlex.split(line, comments=True)[1:]:
        if word.startswith("-"):
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            if word.partition("=")[0] not in known | {"-h", "--help"}:
                return f"{line!r}: {command.name} has no option {word}"
        elif getattr(command, "commands", None) and not word.isupper():
            if word not in command.commands:
                return f"{line!r}: there is no verb {word}"
            command = command.commands[word].make_context(word, [], resilient_parsing=True).command
    return None


def test_every_command_that_a_page_mentions_exists(pages):
    lines = [(page, line) for page in pages for line in commands_in(page)]
    assert len(lines) > 10
    problems = [(page.path.name, problem_of(line, own_verbs(page))) for page, line in lines]
    assert [(name, problem) for name, problem in problems if problem] == []


@pytest.mark.parametrize("line", ["noether train x.toml", "noether run x.toml --fast", "noether plugins remove x"])
def test_a_command_that_does_not_exist_is_noticed(line: str):
    assert problem_of(line)


def test_the_help_cuts_no_line_and_names_arguments_plainly(pages):
    [lines] = [page.path.read_text().splitlines() for page in pages if page.path.name == "cli.md"]
    usages = [line for line in lines if line.startswith("Usage: ")]
    assert len(usages) > 30
    assert [line for line in usages if "{" in line or "[[" in line] == []
    first = [number for number, line in enumerate(lines) if line == "Commands:"]
    verbs = [line for number in first for line in lines[number + 1 : lines.index("", number)]]
    assert len(verbs) > 30
    assert [line for line in verbs if len(line) > 78] == []  # a terminal of 80 columns would cut it
