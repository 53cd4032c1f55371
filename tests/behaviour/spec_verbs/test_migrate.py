"""`noether spec migrate`, with a made-up second version of the format."""

from pathlib import Path

import pytest

from noether.spec import migrations
from noether.spec.migrations import Migration

OLD = "# why\nspec = 1  # format\n\n[trainer]\nepochs = 3  # enough\n"
NEW = "# why\nspec = 2  # format\n\n[trainer]\nmax_epochs = 3  # enough\n"


def rename_epochs(table) -> bool:
    table["trainer"]["max_epochs"] = table["trainer"].pop("epochs")
    return True


@pytest.fixture
def second_version(monkeypatch, workplace) -> Path:
    monkeypatch.setattr(migrations, "MIGRATIONS", (Migration("trainer.epochs is now max_epochs", rename_epochs),))
    path = Path("old.toml")
    path.write_text(OLD)
    return path


def test_it_says_what_would_change(noether_command, second_version):
    ended = noether_command("spec", "migrate", second_version)
    assert ended.code == 0
    assert ended.out == (
        "old.toml: trainer.epochs is now max_epochs\n"
        "old.toml: would be spec = 2; noether spec migrate old.toml --write changes it\n"
    )
    assert second_version.read_text() == OLD


def test_with_write_it_changes_the_file_and_keeps_comments(noether_command, second_version):
    pytest.importorskip("tomlkit")
    ended = noether_command("spec", "migrate", second_version, "--write")
    assert ended.out == "old.toml: trainer.epochs is now max_epochs\nold.toml: now spec = 2\n"
    assert second_version.read_text() == NEW
    assert "nothing to migrate" in noether_command("spec", "migrate", second_version, "--write").out


def test_windows_line_ends_stay(noether_command, second_version):
    pytest.importorskip("tomlkit")
    second_version.write_bytes(OLD.replace("\n", "\r\n").encode())
    noether_command("spec", "migrate", second_version, "--write")
    assert b"spec = 2  # format\r\n" in second_version.read_bytes()


def test_check_reads_an_old_spec_and_says_so(noether_command, second_version):
    assert noether_command("spec", "init", "new.toml").code == 0
    text = Path("new.toml").read_text()
    Path("a.toml").write_text(text.replace("max_epochs", "epochs"))
    ended = noether_command("check", "a.toml")
    assert (ended.code, ended.err) == (0, "")
    assert (
        "a.toml: valid\n"
        "note: a.toml is read as spec = 2: trainer.epochs is now max_epochs\n"
        "note: noether spec migrate a.toml --write brings a.toml up to date, and keeps its comments\n"
    ) in ended.out


def test_a_run_of_an_old_spec_says_so(noether_command, second_version):
    assert noether_command("spec", "init", "new.toml").code == 0
    text = Path("new.toml").read_text()
    Path("a.toml").write_text(text.replace("max_epochs", "epochs"))
    ended = noether_command("run", "a.toml", "-s", "trainer.max_epochs=1", "-s", 'trackers=[{kind="noop"}]')
    assert ended.code == 0
    assert "note: a.toml is read as spec = 2: trainer.epochs is now max_epochs\n" in ended.out


def test_a_newer_format_is_an_error(noether_command, second_version):
    second_version.write_text("spec = 9\n")
    ended = noether_command("spec", "migrate", second_version)
    assert ended.code == 2
    assert "spec = 9 is a newer format than this Noether knows" in ended.err


@pytest.mark.parametrize("verb", ["resolve", "explain", "diff", "schema", "init", "migrate"])
def test_help_has_an_example(noether_command, verb):
    assert f"Example: noether spec {verb}" in noether_command("spec", verb, "--help").out
