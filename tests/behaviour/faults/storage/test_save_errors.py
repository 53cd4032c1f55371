"""A save that the disk refuses, or warns about in advance."""

import errno
import os
import re
import shutil

import pytest

from noether.checkpoint import durable
from noether.checkpoint.paths import checkpoint_folders, read_checkpoint, update_of
from noether.errors import StorageError

EVERY_UPDATE = {"trainer.callbacks": [{"kind": "checkpoint", "every_n_updates": 1}], "checkpoints.keep_last": 99}
WARN = EVERY_UPDATE | {"checkpoints.on_save_error": "warn"}


@pytest.fixture
def refusing(disk_class, monkeypatch):
    """Makes the disk refuse files of the steps of some updates."""

    def refuse(updates, code=errno.ENOSPC):
        class Full(disk_class):
            def before(self, operation, path, *more):
                super().before(operation, path)
                if operation == "write" and any(f"step-{update:012d}" in str(path) for update in updates):
                    raise OSError(code, os.strerror(code))

        monkeypatch.setattr(durable, "os", Full())

    return refuse


def saved(outcome):
    steps = checkpoint_folders(outcome.run_dir / "checkpoints")
    for step in steps:
        read_checkpoint(step)
    return [update_of(step) for step in steps]


def said(outcome):
    return (outcome.run_dir / "log.txt").read_text()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_warn_goes_on_and_saves_at_the_next_trigger(run, refusing, code):  # B1
    refusing({2, 3, 4, 6, 7, 8}, code)
    outcome = run(WARN | {"trainer.max_epochs": 2})
    assert outcome.exit_code == 0
    assert saved(outcome) == [1, 5, 9, 10, 11, 12]
    assert re.findall(r"failed save (\d of 3)", said(outcome)) == ["1 of 3", "2 of 3", "3 of 3"] * 2


def test_warn_gives_up_after_three_in_a_row(run, refusing):  # B1
    refusing({2, 3, 4, 5})
    outcome = run(WARN | {"trainer.max_epochs": 2})
    assert outcome.exit_code == 1
    assert isinstance(outcome.error, StorageError)
    assert "step-000000000005" in outcome.error.message
    assert saved(outcome) == [1]


def test_raise_ends_the_run_at_the_first_one_and_says_how_much_room_is_needed(run, refusing):  # B1
    refusing({3})
    outcome = run(EVERY_UPDATE)
    assert outcome.exit_code == 1
    assert saved(outcome) == [1, 2]
    needed = sum(
        record.size
        for record in read_checkpoint(checkpoint_folders(outcome.run_dir / "checkpoints")[0])[0].files.values()
    )
    assert f"{durable.size_text(needed)[:2]}" in outcome.error.message
    assert "are needed" in outcome.error.message
    assert "are free on its disk" in outcome.error.message


@pytest.mark.parametrize("policy", ["warn", "raise"])
def test_the_last_save_of_a_run_always_has_to_succeed(run, refusing, policy):  # B1
    refusing({12})
    outcome = run({"checkpoints.on_save_error": policy, "trainer.max_epochs": 2})
    assert outcome.exit_code == 1
    assert isinstance(outcome.error, StorageError)


def test_too_little_room_is_reported_before_it_runs_out(run, monkeypatch):  # B2
    monkeypatch.setattr(durable, "free_bytes", lambda folder: 20_000)
    outcome = run({"trainer.max_epochs": 1, "checkpoints.keep_last": 5})
    assert said(outcome).count("at once need") == 1
    assert "but only 20000 bytes are free" in said(outcome)
    assert outcome.exit_code == 0


def test_enough_room_is_nothing_to_tell(run):  # B2
    assert "at once need" not in said(run({"trainer.max_epochs": 1}))


def test_a_folder_that_cannot_be_written_to_fails_before_the_first_update(run, disk_class, monkeypatch):  # B4
    class ReadOnly(disk_class):
        def before(self, operation, path, *more):
            if "checkpoints" in str(path):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(durable, "os", ReadOnly())
    outcome = run({})
    assert outcome.exit_code == 1
    assert isinstance(outcome.error, StorageError)
    assert "Read-only file system" in outcome.error.message
    assert not (outcome.run_dir / "metrics.jsonl").exists()


@pytest.mark.parametrize("policy", ["warn", "raise"])
def test_a_run_folder_that_is_removed_while_it_trains_is_not_made_again(run, lab, policy):  # B6
    (lab / "removing.py").write_text(
        "import shutil\n"
        "from noether.core.callbacks import PeriodicCallback\n"
        "class Removing(PeriodicCallback):\n"
        "    def periodic_callback(self, *, update_counter, **_):\n"
        "        if update_counter.update == 3:\n"
        "            shutil.rmtree(self.checkpoint_writer.path_provider.run_path)\n"
    )
    removing = {"kind": "lab.removing.Removing", "every_n_updates": 1}
    callbacks = [*EVERY_UPDATE["trainer.callbacks"], removing]
    outcome = run(EVERY_UPDATE | {"trainer.callbacks": callbacks, "checkpoints.on_save_error": policy})
    assert outcome.exit_code == 1
    assert isinstance(outcome.error, StorageError)
    assert "checkpoints was removed or renamed while the run trained" in outcome.error.message
    assert not (outcome.run_dir / "checkpoints").exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_reported_once(run, disk_class, monkeypatch, caplog, code):  # B7
    class WithoutFolderSync(disk_class):
        def before(self, operation, path, *more):
            if operation == "fsyncdir":
                raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable, "os", WithoutFolderSync())
    monkeypatch.setattr(durable, "_warned_of", set())
    outcome = run(EVERY_UPDATE)
    assert outcome.exit_code == 0
    assert len(saved(outcome)) == 12
    assert (caplog.text + said(outcome)).count("cannot sync folders") == 1


def test_a_run_that_was_moved_can_be_gone_on_with(run, tmp_path):  # C6
    outcome = run({"trainer.max_epochs": 1}, run_id="first")
    moved = shutil.move(outcome.run_dir, tmp_path / "elsewhere")
    initializer = {"kind": "resume", "path": str(moved)}
    longer = run({"trainer.max_epochs": 2, "initializer": initializer}, run_id="second")
    assert longer.exit_code == 0
    assert saved(longer)[-1] == 12
