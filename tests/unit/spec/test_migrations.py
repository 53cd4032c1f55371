"""Older formats are understood and rewritten; there is none yet, so a made-up second and third version show it."""

import pytest

from noether.errors import SpecError, UsageError
from noether.spec import migrations
from noether.spec.migrations import Migration, migrate_table, migrate_text, newest_version


def rename_epochs(table) -> bool:
    if "epochs" not in table.get("trainer", {}):
        return False
    table["trainer"]["max_epochs"] = table["trainer"].pop("epochs")
    return True


def halve_epochs(table) -> bool:
    table["trainer"]["max_epochs"] //= 2
    return True


@pytest.fixture
def third_version(monkeypatch) -> None:
    steps = (Migration("epochs is now max_epochs", rename_epochs), Migration("epochs are twice as long", halve_epochs))
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)


def test_today_there_is_one_version():
    assert newest_version() == 1
    assert migrate_table({"spec": 1, "name": "a"}) == ({"spec": 1, "name": "a"}, [])


def test_an_old_table_takes_every_step_in_order(third_version):
    migrated, notes = migrate_table({"spec": 1, "trainer": {"epochs": 10}})
    assert migrated == {"spec": 3, "trainer": {"max_epochs": 5}}
    assert notes == ["epochs is now max_epochs", "epochs are twice as long"]


def test_a_table_that_is_half_way_takes_the_rest(third_version):
    assert migrate_table({"spec": 2, "trainer": {"max_epochs": 10}})[0] == {"spec": 3, "trainer": {"max_epochs": 5}}


def test_a_table_without_a_version_is_in_the_first_format(third_version):
    assert migrate_table({"trainer": {"epochs": 10}})[0]["trainer"] == {"max_epochs": 5}


def test_a_step_that_changes_nothing_leaves_no_note(third_version):
    assert migrate_table({"spec": 1, "trainer": {"max_epochs": 10}})[1] == ["epochs are twice as long"]


def test_the_given_table_stays_as_it_is(third_version):
    table = {"spec": 1, "trainer": {"epochs": 10}}
    migrate_table(table)
    assert table == {"spec": 1, "trainer": {"epochs": 10}}


def test_a_newer_format_is_an_error_that_names_both():
    with pytest.raises(SpecError, match=r"spec = 7 is a newer format .* up to spec = 1") as caught:
        migrate_table({"spec": 7})
    assert caught.value.hint == "pip install --upgrade noether-train"


@pytest.mark.parametrize("version", ["2", 0, -1, True, 1.5, None])
def test_what_is_no_version_is_left_to_validation(third_version, version):
    assert migrate_table({"spec": version}) == ({"spec": version}, [])


def test_comments_and_order_of_a_file_stay(third_version):
    pytest.importorskip("tomlkit")
    text = '# why\nspec = 1   # format\n\n[trainer]\nkind = "x"  # mine\nepochs = 10\n'
    migrated, notes = migrate_text(text)
    assert migrated == '# why\nspec = 3   # format\n\n[trainer]\nkind = "x"  # mine\nmax_epochs = 5\n'
    assert len(notes) == 2


def test_without_tomlkit_the_error_says_what_to_install(third_version, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tomlkit", None)
    with pytest.raises(UsageError) as caught:
        migrate_text("spec = 1\n")
    assert caught.value.hint == "pip install tomlkit"
