"""Uploads: a checkpoint is in the mirror completely or not at all, whatever happens between its files."""

import pytest

from noether.checkpoint.manifest import Manifest
from noether.checkpoint.paths import checkpoint_folders, read_checkpoint
from noether.checkpoint.retention import pin, remove_checkpoint
from noether.errors import CheckpointError
from noether.metrics.spool import SpoolState, write_spool
from noether.runs.mirror.fetch import fetch
from noether.runs.mirror.upload import MirrorLostError


def content(run):
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def fetched_update(store, elsewhere):
    assert fetch(store, elsewhere, "owner", "auto")
    *_, newest = checkpoint_folders(elsewhere.checkpoint_path)
    return read_checkpoint(newest)[0].update


def test_a_fetched_run_has_the_bytes_of_the_run_up_to_its_newest_checkpoint(tiny_run, store, elsewhere):
    tiny_run.upload(store).synchronise()
    assert fetch(store, elsewhere, "owner", "auto")
    found, expected = content(elsewhere.run_path), content(tiny_run.paths.run_path)
    assert found.pop("metrics.jsonl") == tiny_run.metrics
    found.pop("mirror.json")
    assert found == {name: expected[name] for name in found}
    assert {"run.json", "checkpoints/step-000000000002/manifest.json"} <= found.keys()


def test_nothing_is_uploaded_twice(tiny_run, store, faulty):
    upload = tiny_run.upload(store)
    upload.synchronise()
    written = []
    faulty.fault = staticmethod(lambda operation, path: operation == "write" and written.append(path))
    upload.synchronise()
    assert written == []


@pytest.mark.parametrize("kept", range(12))
def test_an_upload_that_ends_between_two_files_leaves_the_checkpoint_before_and_is_taken_up_again(
    tiny_run, store, faulty, elsewhere, kept
):
    upload = tiny_run.upload(store)
    upload.synchronise()
    tiny_run.save(3)
    left = [kept]

    def die(operation, path):
        if operation in ("write", "remove"):
            left[0] -= 1
            if left[0] < 0:
                raise SystemExit

    faulty.fault = staticmethod(die)
    died = False
    try:
        upload.synchronise()
    except SystemExit:
        died = True
    faulty.fault = staticmethod(lambda operation, path: None)
    assert fetched_update(store, elsewhere) in ((2, 3) if died else (3,))
    tiny_run.upload(store, "2" * 32).synchronise()
    assert store.updates() == [2, 3]
    assert {sha256 for update in (2, 3) for sha256 in store.entry(update).blobs} == store.blobs().keys()


def test_a_blob_that_was_cut_off_is_written_again(tiny_run, store, faulty):
    tiny_run.upload(store).synchronise()
    path = next(path for path in faulty.store if "/blobs/" in path and faulty.store[path].size > 1)
    whole = faulty.store[path].getvalue()
    faulty().pipe_file(path, whole[:1])
    store.remove_entry(1), store.remove_entry(2)
    tiny_run.upload(store, "2" * 32).synchronise()
    assert faulty.store[path].getvalue() == whole


def test_an_entry_is_not_written_if_a_blob_is_lost_on_the_way(tiny_run, store, faulty):
    def lose(operation, path):
        if operation == "list" and (blobs := [name for name in faulty.store if "/blobs/" in name]):
            del faulty.store[blobs[0]]

    faulty.fault = staticmethod(lose)
    with pytest.raises(OSError, match="are not there"):
        tiny_run.upload(store).synchronise()
    assert store.updates() == []


def test_the_newest_resumable_checkpoint_is_uploaded_first(tiny_run, store, faulty):
    tiny_run.save(3, save_optim=False)
    order = []
    faulty.fault = staticmethod(
        lambda operation, path: operation == "write" and "/checkpoints/" in path and order.append(path[-7:-5])
    )
    tiny_run.upload(store).synchronise()
    assert order == ["02", "01", "03"]


def test_a_checkpoint_that_is_pruned_while_it_is_uploaded_arrives_whole(tiny_run, store, faulty, elsewhere):
    *_, newest = checkpoint_folders(tiny_run.paths.checkpoint_path)

    def prune(operation, path):
        if operation == "write" and "/blobs/" in path and newest.exists():
            remove_checkpoint(newest)

    faulty.fault = staticmethod(prune)
    upload = tiny_run.upload(store)
    upload._prune = lambda entries: None
    upload.synchronise()
    assert fetched_update(store, elsewhere) == 2


def test_the_position_of_a_tracker_on_a_server_comes_along_and_that_in_a_file_does_not(tiny_run, store):
    tiny_run.paths.spool_path.mkdir()
    for name, address in (("server", "https://127.0.0.1"), ("file", "sqlite:////tmp/a.db"), ("folder", "/tmp/mlruns")):
        write_spool(tiny_run.paths.spool_path / f"{name}.json", SpoolState(reference={"store": address}), durably=False)
    tiny_run.upload(store).synchronise()
    assert [name for name in store.entry(2).files if name.startswith("spool/")] == ["spool/server.json"]


# Retention


def test_checkpoints_that_retention_removes_go_after_the_newer_one_is_there(tiny_run, store, faulty):
    upload = tiny_run.upload(store)
    upload.synchronise()
    happened = []
    faulty.fault = staticmethod(lambda operation, path: happened.append((operation, path.rpartition("/")[2])))
    for update in (3, 4):
        tiny_run.save(update)
    upload.synchronise()
    assert store.updates() == [3, 4]
    assert happened.index(("write", "step-000000000004.json")) < happened.index(("remove", "step-000000000001.json"))
    assert {sha256 for update in (3, 4) for sha256 in store.entry(update).blobs} == store.blobs().keys()


def test_a_pinned_checkpoint_stays_also_on_a_machine_that_did_not_fetch_it(tiny_run, store, elsewhere, tmp_path):
    pin(tiny_run.paths.checkpoint_path, 1)
    for update in (3, 4):
        tiny_run.save(update)
    tiny_run.upload(store).synchronise()
    assert fetch(store, elsewhere, "1" * 32, "auto")
    there = type(tiny_run)(tmp_path / "scratch")
    there.paths, there.metrics = elsewhere, tiny_run.metrics
    there.writer = type(tiny_run.writer)(elsewhere, keep_last=2)
    for update in (5, 6):
        there.save(update)
    there.upload(store, "2" * 32).synchronise()
    assert store.updates() == [1, 5, 6]


def test_checkpoints_of_a_training_that_was_given_up_are_removed(tiny_run, store):
    tiny_run.upload(store).synchronise()
    remove_checkpoint(checkpoint_folders(tiny_run.paths.checkpoint_path)[-1])
    tiny_run.upload(store, "2" * 32).synchronise()
    assert store.updates() == [1]


def test_a_checkpoint_that_lost_files_locally_loses_them_in_the_mirror(tiny_run, store):
    tiny_run.upload(store).synchronise()
    before = store.entry(1).manifest.files
    tiny_run.writer.folder.cut({1: frozenset({"optimizer.safetensors", "trainer.json"})}, tiny_run.writer.retention, ())
    tiny_run.upload(store, "2" * 32).synchronise()
    assert store.entry(1).manifest.files.keys() < before.keys()


# Two runs


def test_a_second_run_of_one_id_uploads_nothing(tiny_run, store, tmp_path):
    tiny_run.upload(store).synchronise()
    other = type(tiny_run)(tmp_path / "other")
    other.save(7)
    with pytest.raises(MirrorLostError):
        other.upload(store, "2" * 32).synchronise()
    assert store.updates() == [1, 2]


def test_an_attempt_on_another_machine_ends_the_uploads_of_the_first(tiny_run, store, elsewhere):
    first = tiny_run.upload(store)
    first.synchronise()
    assert fetch(store, elsewhere, store.owner(), "auto")
    there = type(tiny_run).__new__(type(tiny_run))
    there.paths, there.said = elsewhere, []
    there.upload(store, "2" * 32).synchronise()
    tiny_run.save(3)
    with pytest.raises(MirrorLostError):
        first.synchronise()
    assert 3 not in store.updates()


def test_a_local_file_that_is_damaged_is_named_and_the_others_are_uploaded(tiny_run, store):
    damaged = tiny_run.paths.checkpoint_path / "step-000000000002" / "model.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    tiny_run.upload(store).synchronise()
    assert store.updates() == [1]
    assert "step-000000000002" in tiny_run.said[0]


def test_a_file_that_grows_is_uploaded_in_pieces_and_whole_ones_only_once(tiny_run, store, faulty, monkeypatch):
    monkeypatch.setattr("noether.runs.mirror.upload.PIECE", 16)
    upload = tiny_run.upload(store)
    upload.synchronise()
    pieces = store.entry(2).files["metrics.jsonl"]
    assert [piece.size for piece in pieces] == [16, 12]
    tiny_run.save(3)
    upload.synchronise()
    assert store.entry(3).files["metrics.jsonl"][0] == pieces[0]


def test_an_entry_survives_its_encoding(tiny_run, store):
    tiny_run.upload(store).synchronise()
    entry = store.entry(2)
    assert type(entry).decode(entry.encode()) == entry
    assert entry.manifest == Manifest.decode(entry.text)
    with pytest.raises(CheckpointError):
        store._write("checkpoints/step-000000000002.json", entry.encode()[:-9])
        store.entry(2)
