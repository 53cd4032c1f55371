"""Older specs are understood as they are; a made-up second version of the format shows it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from noether.errors import SpecError
from noether.spec import migrations
from noether.spec.migrating import migrated
from noether.spec.migrations import Migration
from noether.spec.read.layering import layered
from noether.spec.read.layers import Layer, Origins, value_of

OLD = """\
spec = 1

[trainer]
kind = "goal"
epochs = "many"
"""


def rename_epochs(table) -> bool:
    if "epochs" not in table.get("trainer", {}):
        return False
    table["trainer"]["max_epochs"] = table["trainer"].pop("epochs")
    return True


@pytest.fixture
def second_version(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(migrations, "MIGRATIONS", (Migration("trainer.epochs is now max_epochs", rename_epochs),))


def test_an_old_file_is_read_in_todays_format(second_version):
    Path("a.toml").write_text(OLD)
    found = layered("a.toml")
    assert value_of(found.root) == {"spec": 2, "trainer": {"kind": "goal", "max_epochs": "many"}}
    assert found.text == OLD
    assert found.notes == (
        "a.toml is read as spec = 2: trainer.epochs is now max_epochs",
        "noether spec migrate a.toml --write brings a.toml up to date, and keeps its comments",
    )


def test_an_error_in_an_old_file_points_at_the_old_key(second_version, shown: Callable):
    Path("a.toml").write_text(OLD)
    assert (
        'error: found the string "many", expected an integer\n'
        " --> a.toml:5:10   [trainer.max_epochs]\n"
        "  |\n"
        '5 | epochs = "many"\n'
        "  |          ^^^^^^\n"
    ) in shown("a.toml")


def test_each_file_is_migrated_from_its_own_format(second_version):
    Path("base.toml").write_text(OLD)
    Path("a.toml").write_text('spec = 2\nextends = ["base.toml"]\n[trainer]\nmax_epochs = 3\n')
    found = layered("a.toml")
    assert value_of(found.root)["trainer"] == {"kind": "goal", "max_epochs": 3}
    assert found.notes[0] == "base.toml is read as spec = 2: trainer.epochs is now max_epochs"
    sources = Origins(found.root).of(("trainer", "max_epochs"))
    assert [(source.origin, source.place and source.place.line) for source in sources] == [
        ("a.toml", 4),
        ("base.toml", 5),
    ]


def test_an_old_spec_from_python_loads_with_its_note(second_version, load: Callable, tables: dict):
    tables["trainer"]["epochs"] = tables["trainer"].pop("max_epochs")
    loaded = load(tables)
    assert loaded.spec.trainer.max_epochs == 1
    assert loaded.notes == ("the spec is read as spec = 2: trainer.epochs is now max_epochs",)


def test_a_spec_of_today_has_no_notes(load: Callable, tables: dict):
    assert load(tables).notes == ()


def test_what_equals_several_gone_values_is_not_said_to_be_one_of_them(monkeypatch):
    def swap(table) -> bool:
        table["c"] = table.pop("a")
        del table["b"]
        return True

    monkeypatch.setattr(migrations, "MIGRATIONS", (Migration("a is now c", swap),))
    layer = Layer("the spec", Path())
    assert migrated({"a": 1, "b": 1}, layer) == {"c": 1, "spec": 2}
    assert layer.moved == {}


def test_a_newer_format_points_at_its_version(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text("name = 'a'\nspec = 7\n")
    with pytest.raises(SpecError) as caught:
        layered("a.toml")
    assert caught.value.message == (
        "error: spec = 7 is a newer format than this Noether knows: 0.1.0 reads up to spec = 1\n"
        " --> a.toml:2:8   [spec]\n"
        "  |\n"
        "2 | spec = 7\n"
        "  |        ^\n"
        "  = help: pip install --upgrade noether-train\n\n1 problem in a.toml"
    )
