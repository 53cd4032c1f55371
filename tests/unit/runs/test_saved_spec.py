"""The spec in a run folder is data: every reader keeps the limits, and every failure is an error of the spec."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noether.checkpoint.paths import PathProvider
from noether.errors import SpecError, UsageError
from noether.runs.results.checkpoints import prune_run
from noether.runs.resume.resume import preview, resume
from noether.runs.saved_spec import has_saved_spec, load_saved_spec, read_saved_spec, write_saved_spec
from noether.runs.tracking.sync import sync_trackers


@pytest.fixture
def run(finish: Callable[..., Any]) -> PathProvider:
    """A run that has ended, with one checkpoint."""
    folder = finish({"trainer.max_epochs": 1}, run_id="mine").run_dir
    return PathProvider(folder.parent, folder.name)


def remove(path: Path) -> None:
    path.unlink()


def lead_out(path: Path) -> None:
    outside = Path("outside.toml").absolute()
    path.rename(outside)
    path.symlink_to(outside)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def extend(path: Path) -> None:
    Path("base.toml").write_text("seed = 1\n")
    path.write_text(f'extends = ["{Path("base.toml").absolute()}"]\n' + path.read_text())


def holding(text: str | bytes) -> Callable[[Path], object]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda path: path.write_bytes(data)


HOLES: dict[str, Callable[[Path], object]] = {
    "missing": remove,
    "a symbolic link out of the run": lead_out,
    "a folder": become_a_folder,
    "extends another file": extend,
    "no TOML": holding("a = = 1"),
    "not UTF-8": holding(b"a = '\xff'"),
    "too large": holding("#" * ((1 << 20) + 1)),
    "too deep": holding("a = " + "[" * 5000 + "]" * 5000),
    "too many values": holding("a = [" + "1," * 20_000 + "]"),
}
READERS: dict[str, Callable[[PathProvider], object]] = {
    "read": read_saved_spec,
    "load": load_saved_spec,
    "prune": lambda run: prune_run(run, keep_last=1),
    "sync": lambda run: list(sync_trackers(run.run_path)),
}


@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)
def test_every_reader_refuses_what_no_run_has_written(run: PathProvider, hole: Callable[[Path], object]) -> None:
    hole(run.resolved_spec_path)
    shutil.rmtree(run.checkpoint_path)
    for name, reader in READERS.items():
        with pytest.raises(SpecError):
            reader(run)
            pytest.fail(f"{name} took it")


@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)
def test_every_reader_takes_the_copy_in_the_checkpoint_and_says_so(
    run: PathProvider, hole: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    before = read_saved_spec(run)
    hole(run.resolved_spec_path)
    for name, reader in READERS.items():
        caplog.clear()
        reader(run)
        assert "the copy in step-000000000006 is used" in caplog.text, name
    assert read_saved_spec(run) == before
    (run.checkpoint_path / "step-000000000006" / "spec.resolved.toml").write_text("damaged")
    with pytest.raises(SpecError):
        read_saved_spec(run)


@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)
def test_a_resume_restores_what_no_run_has_written(run: PathProvider, hole: Callable[[Path], object]) -> None:
    before = run.resolved_spec_path.read_bytes()
    hole(run.resolved_spec_path)
    assert any(line.startswith("damaged     spec.resolved.toml ") for line in preview(run.run_path))
    resume(run.run_path)
    assert run.resolved_spec_path.read_bytes() == before
    assert not run.resolved_spec_path.is_symlink()


def test_settings_and_origins_are_distinguished(run: PathProvider) -> None:
    saved = read_saved_spec(run)
    assert saved.tables["name"] == "tiny"
    assert "resolved" not in saved.tables
    assert saved.origins["model"].startswith("mlp from noether-train ")


def test_a_run_without_a_spec_is_seen(run: PathProvider) -> None:
    assert has_saved_spec(run)
    assert not has_saved_spec(PathProvider("runs", "other"))
    assert not has_saved_spec(PathProvider("runs", "n" * 5000))


def test_the_spec_of_an_attempt_before_is_kept_if_it_differs(run: PathProvider) -> None:
    former = run.attempts_path / "0001.resolved.toml"
    text = run.resolved_spec_path.read_text()
    write_saved_spec(run, "given", text, former=former)
    assert not former.exists()
    write_saved_spec(run, "given", text + "# changed\n", former=former)
    assert (former.read_text(), run.spec_path.read_text()) == (text, "given")


@pytest.mark.parametrize("value", ['"all"', "0", "1.5"])
def test_prune_trusts_no_number_that_a_spec_could_not_hold(run: PathProvider, value: str) -> None:
    text = run.resolved_spec_path.read_text()
    assert "keep_last = 3" in text
    run.resolved_spec_path.write_text(text.replace("keep_last = 3", f"keep_last = {value}"))
    with pytest.raises(SpecError):
        prune_run(run)


def test_a_tracker_in_a_run_folder_is_not_imported(run: PathProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Path("executed").absolute()
    (run.run_path / "evil_tracker.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    text = run.resolved_spec_path.read_text()
    assert 'kind = "noop"' in text
    run.resolved_spec_path.write_text(text.replace('kind = "noop"', 'kind = "evil_tracker.Mine"'))
    monkeypatch.chdir(run.run_path)
    with pytest.raises(UsageError):
        list(sync_trackers(run.run_path))
    assert not mark.exists()
    assert "evil_tracker" not in sys.modules
