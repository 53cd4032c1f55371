"""`{ env = "NAME" }`: resolved for the run, saved unresolved."""

import logging
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from noether.config.secrets import MaskSecrets, mask
from noether.spec.errors.problem import InvalidSpecError, as_json, problems_in
from noether.spec.model import resolved_tables, resolved_toml

SECRET = "correct-horse-battery"


def test_a_value_is_read_and_stays_a_reference_in_dumps(load: Callable, tables: dict, monkeypatch):
    monkeypatch.setenv("WHERE", "/data")
    tables["datasets"]["train"]["root"] = {"env": "WHERE"}
    spec = load(tables).spec
    assert spec.datasets["train"].root == Path("/data")
    resolved = tomllib.loads(resolved_toml(spec))
    assert resolved["datasets"]["train"]["root"] == {"env": "WHERE"}
    monkeypatch.setenv("WHERE", "/other")
    assert load(resolved).spec.datasets["train"].root == Path("/other")
    assert resolved_toml(load(resolved).spec) == resolved_toml(spec)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seed", "3", 3),
        ("deterministic", "true", True),
        ("model.dropout", "1e-1", 0.1),
        ("model.hidden", "[1, 2]", [1, 2]),
        ("output", "3", "3"),
        ("model.activation", "gelu", "gelu"),
        ("matmul_precision", "high", "high"),
    ],
)
def test_text_is_read_as_the_field_wants_it(load: Callable, tables: dict, monkeypatch, key: str, text: str, value):
    monkeypatch.setenv("IT", text)
    found = load(tables, [f'{key}={{env = "IT"}}']).spec
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_the_default_is_used_where_the_variable_is_not_set(load: Callable, tables: dict, monkeypatch):
    monkeypatch.delenv("IT", raising=False)
    assert load(tables, ['seed={env="IT", default=7}']).spec.seed == 7


def test_a_default_path_is_relative_to_its_file_and_the_dump_says_so(load: Callable, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("IT", raising=False)
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "a.toml"
    path.write_text(
        '[datasets.train]\nkind="points"\nroot={env="IT", default="d"}\n[model]\nkind="net"\n'
        '[trainer]\nkind="goal"\nmax_epochs=1\neffective_batch_size=1\n'
    )
    spec = load(path).spec
    assert spec.datasets["train"].root == path.parent / "d"
    assert resolved_tables(spec)["datasets"]["train"]["root"] == {"env": "IT", "default": str(path.parent / "d")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IT", "e")
    assert load(path).spec.datasets["train"].root == tmp_path / "e"


def test_a_reference_replaces_and_is_replaced_as_a_value(load: Callable, tables: dict, monkeypatch):
    monkeypatch.setenv("IT", "4")
    tables["seed"] = {"env": "OTHER", "default": 3}
    assert load(tables, ['seed={env="IT"}']).spec.seed == 4
    assert load(tables, ["seed=5"]).spec.seed == 5


WRONG = {
    '{env="NOT_SET"}': ("unset-variable", "export NOT_SET=…, or { env"),
    '{env="NOT_SET", secret=true}': ("unset-variable", "export NOT_SET=…"),
    '{env="A", defualt=1}': ("invalid-reference", "rename it to 'default'"),
    '{env=""}': ("invalid-reference", "expected"),
    '{env="A", default=1, secret="yes"}': ("invalid-reference", None),
    '{env="A", default="x", secret=true}': ("invalid-reference", "remove the default"),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.items())
def test_a_wrong_reference_is_one_located_problem(load: Callable, tables: dict, monkeypatch, text: str, expected):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(InvalidSpecError) as caught:
        load(tables, [f"seed={text}"])
    (problem,) = caught.value.problems
    assert problem.code == expected[0]
    assert (problem.hint or "").startswith(expected[1] or "")
    assert (problem.places[0].column, problem.places[0].end_column) == (6, 6 + len(text))


def test_other_tables_with_a_key_env_are_no_references(load: Callable, tables: dict):
    tables["expect"] = {"env": {"max": 1}}
    assert load(tables).spec.expect["env"].max == 1


@pytest.fixture
def secret(monkeypatch) -> str:
    monkeypatch.setenv("TOKEN", SECRET)
    return '{env="TOKEN", secret=true}'


def test_a_secret_is_read_and_never_dumped(load: Callable, tables: dict, secret: str):
    spec = load(tables, [f"output={secret}"]).spec
    assert spec.output == SECRET
    assert SECRET not in resolved_toml(spec)
    assert resolved_tables(spec)["output"] == {"env": "TOKEN", "secret": True}


def test_a_secret_that_a_plugin_has_carried_elsewhere_is_masked(load: Callable, tables: dict, secret: str):
    spec = load(tables, [f"output={secret}"]).spec
    spec.name, spec.output = spec.output, "out"
    assert (resolved_tables(spec)["name"], resolved_tables(spec)["output"]) == ("***", "out")


def test_an_error_does_not_show_a_secret(load: Callable, tables: dict, monkeypatch):
    monkeypatch.setenv("TOKEN", SECRET * 5)
    with pytest.raises(InvalidSpecError) as caught:
        load(tables, ['device={env="TOKEN", secret=true}', 'model.limits={env="TOKEN", secret=true}'])
    error = caught.value
    for text in (str(error), as_json(problems_in(error)), repr(error.problems)):
        assert SECRET not in text
    assert "the value of $TOKEN" in error.message


def test_a_log_record_does_not_show_a_secret(load: Callable, tables: dict, secret: str):
    load(tables, [f"output={secret}"])
    record = logging.LogRecord("x", logging.INFO, "", 1, "token %s of %d", (SECRET, 3), None)
    assert MaskSecrets().filter(record)
    assert record.getMessage() == "token *** of 3"
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        record.exc_info = (ValueError, error, None)
    MaskSecrets().filter(record)
    assert SECRET not in logging.Formatter("%(message)s").format(record)
    assert mask(f"a{SECRET}b") == "a***b"
