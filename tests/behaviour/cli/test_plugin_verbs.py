"""Verbs of plugins, from the entry-point group `noether.commands`: listed without an import, called by name."""

import json

import pytest
import typer

from noether.cli.main import app

FUNCTION = '''
def greet(name: str, loud: bool = False) -> None:
    """Greet NAME."""
    print(name.upper() if loud else name)
'''
TYPER = """
import typer

app = typer.Typer()

@app.command()
def add(left: int, right: int) -> None:
    print(left + right)

@app.command()
def fail() -> None:
    raise ValueError("no luck")
"""
CLICK = """
import click

@click.command()
@click.option("--times", default=1)
@click.argument("word")
def repeat(times, word):
    print(" ".join([word] * times))
"""


@pytest.fixture
def verbs(install) -> None:
    install(
        "noether-plugin-talk",
        {
            "noether.commands": {
                "greet": "talk_function:greet",
                "count": "talk_typer:app",
                "repeat": "talk_click:repeat",
                "sick": "talk_sick:verb",
                "run": "talk_function:greet",
            }
        },
        {"talk_function": FUNCTION, "talk_typer": TYPER, "talk_click": CLICK, "talk_sick": "1 / 0\n"},
    )


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["greet", "ada"], "ada\n"),
        (["greet", "--loud", "ada"], "ADA\n"),
        (["count", "add", "1", "2"], "3\n"),
        (["repeat", "--times", "2", "hey"], "hey hey\n"),
        (["talk/run", "ada"], "ada\n"),
    ],
    ids=["a function", "an option", "a typer app", "a click command", "a qualified name"],
)
def test_a_plugin_s_verb_is_called_with_its_own_arguments(noether_command, verbs, arguments, printed):
    ended = noether_command(*arguments)
    assert (ended.code, ended.out, ended.err) == (0, printed, "")


def test_help_lists_the_verbs_and_imports_none(noether_command, verbs):
    ended = noether_command("--help")
    assert ended.code == 0
    for name in ("greet", "count", "repeat", "sick", "talk/run"):
        assert [name, "From", "noether-plugin-talk", "1.2."] in [line.split() for line in ended.out.splitlines()]


@pytest.mark.parametrize("name", typer.main.get_command(app).commands)
def test_the_line_of_a_built_in_verb_is_the_first_of_its_own_help(name: str):
    listed = typer.main.get_command(app).commands[name]
    verb = listed.make_context(name, [], resilient_parsing=True).command
    assert listed.help == verb.help.partition("\n")[0]


def test_a_verb_has_the_help_of_the_plugin(noether_command, verbs):
    ended = noether_command("greet", "--help")
    assert ended.code == 0
    assert "Usage: noether greet" in ended.out
    assert "Greet NAME." in ended.out


def test_a_built_in_verb_cannot_be_replaced(noether_command, verbs):
    assert "SPEC" in noether_command("run", "--help").out


def test_wrong_usage_of_a_verb_ends_with_2(noether_command, verbs):
    assert noether_command("count", "add", "one", "2").code == 2


def test_a_verb_that_fails_to_import_is_an_error_of_its_distribution(noether_command, verbs):
    ended = noether_command("sick")
    assert ended.code == 2
    assert "cannot import command 'sick' of noether-plugin-talk 1.2" in ended.err


def test_an_error_of_a_verb_names_the_plugin(noether_command, verbs):
    ended = noether_command("count", "fail")
    assert ended.code == 1
    assert "ValueError: no luck" in ended.err
    assert "raised by the command 'count' of noether-plugin-talk 1.2" in ended.err


def test_a_verb_that_two_plugins_have_needs_its_qualified_name(noether_command, verbs, install):
    install("noether-plugin-shout", {"noether.commands": {"greet": "shout:greet"}}, {"shout": FUNCTION})
    ended = noether_command("greet", "ada")
    assert ended.code == 2
    assert {"talk/greet", "shout/greet"} <= set(ended.err.replace(",", " ").replace("'", " ").split())
    assert noether_command("shout/greet", "ada").out == "ada\n"


def test_a_dotted_path_is_not_a_verb(noether_command, verbs):
    assert noether_command("os.system", "true").code == 2
    assert noether_command("os:system", "true").code == 2


def test_plugins_list_shows_them(noether_command, verbs):
    rows = json.loads(noether_command("plugins", "list", "--role", "command", "--json").out)
    assert {row["kind"] for row in rows if row["origin"] == "noether-plugin-talk 1.2"} >= {"greet", "count"}
