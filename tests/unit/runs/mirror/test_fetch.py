"""Fetches: each byte is verified, damaged checkpoints are skipped by name, and nothing leads out of the run folder."""

import json

import pytest

from noether.checkpoint.manifest import FileRecord, NewerFormatError
from noether.checkpoint.paths import checkpoint_folders, update_of
from noether.errors import CheckpointError, StorageError, UsageError
from noether.runs.mirror.fetch import fetch, fetch_run
from noether.runs.mirror.store import Entry, Store, _digest


@pytest.fixture
def mirrored(tiny_run, store):
    tiny_run.upload(store).synchronise()
    return tiny_run


def damage(faulty, record):
    path = next(path for path in faulty.store if path.endswith(record.sha256))
    data = bytearray(faulty.store[path].getvalue())
    data[-1] ^= 1
    faulty().pipe_file(path, bytes(data))


def fetched(store, elsewhere):
    assert fetch(store, elsewhere, "owner", "auto")
    return [update_of(folder) for folder in checkpoint_folders(elsewhere.checkpoint_path)]


def leftovers(elsewhere):
    return list(elsewhere.output_path.iterdir()) if elsewhere.output_path.exists() else []


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_fetched(mirrored, store, faulty, elsewhere, caplog):
    damage(faulty, store.entry(2).manifest.files["model.safetensors"])
    assert fetched(store, elsewhere) == [1]
    assert "step-000000000002" in caplog.text
    assert "model.safetensors" in caplog.text


def test_a_missing_blob_is_a_damage(mirrored, store, elsewhere):
    store.remove_blob(store.entry(2).manifest.files["model.safetensors"].sha256)
    assert fetched(store, elsewhere) == [1]


def test_a_damaged_entry_is_skipped(mirrored, store, elsewhere):
    store._write("checkpoints/step-000000000002.json", b"{}")
    assert fetched(store, elsewhere) == [1]


def test_if_all_are_damaged_nothing_is_fetched(mirrored, store, faulty, elsewhere):
    for update in (1, 2):
        damage(faulty, store.entry(update).manifest.files["model.safetensors"])
    with pytest.raises(CheckpointError, match=r"step-000000000001.*"):
        fetch(store, elsewhere, "owner", "auto")
    assert leftovers(elsewhere) == []


def test_without_the_metrics_of_any_checkpoint_the_newest_is_fetched_and_the_loss_is_named(
    mirrored, store, faulty, elsewhere, caplog
):
    for update in (1, 2):
        damage(faulty, store.entry(update).files["metrics.jsonl"][-1])
    assert fetched(store, elsewhere) == [2]
    assert not elsewhere.metrics_path.exists()
    assert "metrics.jsonl" in caplog.text


def test_partial_saves_are_not_continued_from(mirrored, store, elsewhere):
    mirrored.save(3, save_optim=False)
    mirrored.upload(store, "2" * 32).synchronise()
    assert fetched(store, elsewhere) == [2]


def test_checkpoints_with_names_come_along(mirrored, store, elsewhere):
    mirrored.save(3, tag="best")
    for update in (4, 5, 6):
        mirrored.save(update)
    mirrored.upload(store, "2" * 32).synchronise()
    assert store.updates() == [3, 5, 6]
    assert fetched(store, elsewhere) == [3, 6]


def test_a_checkpoint_that_the_user_names_comes_along(mirrored, store, elsewhere):
    assert fetch(store, elsewhere, "owner", "E0_U1_S1")
    assert len(checkpoint_folders(elsewhere.checkpoint_path)) == 2


def test_a_connection_that_breaks_is_tried_again(mirrored, store, faulty, elsewhere, monkeypatch):
    monkeypatch.setattr("noether.runs.mirror.fetch.pause_s", lambda failures: 0)
    breaks = iter([ConnectionResetError("reset"), ConnectionResetError("reset")])

    def fail(operation, path):
        if operation == "read" and "/blobs/" in path and (error := next(breaks, None)) is not None:
            raise error

    faulty.fault = staticmethod(fail)
    assert fetched(store, elsewhere) == [2]


def test_a_store_that_stops_answering_leaves_no_half_run(mirrored, store, faulty, elsewhere, monkeypatch):
    monkeypatch.setattr("noether.runs.mirror.fetch.pause_s", lambda failures: 0)

    def fail(operation, path):
        if operation == "read" and path.endswith(store_blob):
            raise ConnectionResetError("reset")

    store_blob = store.entry(2).manifest.files["model.safetensors"].sha256
    faulty.fault = staticmethod(fail)
    with pytest.raises(StorageError):
        fetch(store, elsewhere, "owner", "auto")
    assert leftovers(elsewhere) == []


def test_a_full_disk_is_found_before_anything_is_fetched(mirrored, store, elsewhere, monkeypatch):
    monkeypatch.setattr("noether.runs.mirror.fetch.free_bytes", lambda folder: 10)
    with pytest.raises(StorageError, match="no room"):
        fetch(store, elsewhere, "owner", "auto")


# A mirror of a stranger


def forged(store, update, change):
    """Write an entry whose hashes fit again after `change` of its body and of its manifest."""
    body = json.loads(store.entry(update).encode())
    del body["sha256"]
    manifest = json.loads(body["manifest"])
    del manifest["sha256"]
    change(body, manifest)
    body["manifest"] = json.dumps(manifest | {"sha256": _digest(manifest)})
    data = json.dumps(body | {"sha256": _digest(body)}).encode()
    store._write(f"checkpoints/step-{update:012d}.json", data)


NAMES = ["../../evil", "/etc/evil", "..", "", "LOCK", "log.txt", "results/../../evil", "checkpoints/step-1/x", "a\x00b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_beside_the_files_of_a_mirror_is_refused(mirrored, store, elsewhere, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    forged(store, 2, lambda body, manifest: body["files"].update({name: []}))
    forged(store, 1, lambda body, manifest: body["files"].update({name: []}))
    with pytest.raises(CheckpointError):
        fetch(store, elsewhere, "owner", "auto")
    elsewhere.output_path.rmdir()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_file_of_a_checkpoint_that_leads_out_of_it_is_refused(mirrored, store, elsewhere, name):
    record = {"size": 0, "sha256": FileRecord.of(b"").sha256}
    forged(store, 2, lambda body, manifest: manifest["files"].update({name: record}))
    assert fetched(store, elsewhere) == [1]


def test_no_more_bytes_are_taken_than_the_manifest_says(mirrored, store, faulty, monkeypatch):
    record = store.entry(2).manifest.files["model.safetensors"]
    path = next(path for path in faulty.store if path.endswith(record.sha256))
    faulty().pipe_file(path, b"x" * (1 << 20))
    monkeypatch.setattr("noether.runs.mirror.store.PIECE", 64)
    taken = 0
    with pytest.raises(ValueError, match="found more bytes"):
        for chunk in store.read_blob(record):
            taken += len(chunk)
    assert taken <= record.size


@pytest.mark.parametrize("pieces", [[["a", "b"]], [[1]], "x", [[-1, "0" * 64]], [[1, "../../../etc/passwd"]], {}])
def test_pieces_of_a_wrong_shape_are_refused(mirrored, store, pieces):
    forged(store, 2, lambda body, manifest: body["files"].update({"metrics.jsonl": pieces}))
    with pytest.raises(CheckpointError):
        store.entry(2)


def test_an_entry_of_another_update_is_refused(mirrored, store):
    store._write("checkpoints/step-000000000002.json", store.entry(1).encode())
    with pytest.raises(CheckpointError, match="000000000001"):
        store.entry(2)


def test_a_checkpoint_of_a_newer_version_is_not_skipped(mirrored, store, elsewhere):
    forged(store, 2, lambda body, manifest: manifest.update(format=99))
    with pytest.raises(NewerFormatError):
        fetch(store, elsewhere, "owner", "auto")


def test_bytes_that_are_no_entry_are_refused():
    for data in (b"", b"[]", b"{", b'{"sha256": 1}', b"\xff"):
        with pytest.raises(ValueError):
            Entry.decode(data)


# Addresses


@pytest.mark.parametrize("address", ["faulty://bucket/runs/nothing", "nonsense://bucket/mine"])
def test_an_address_without_a_run_is_refused(faulty, elsewhere, address):
    with pytest.raises(UsageError):
        fetch_run(address, elsewhere.output_path)


def test_a_password_in_an_address_on_the_command_line_is_refused_and_not_shown(elsewhere):
    with pytest.raises(UsageError) as error:
        fetch_run("sftp://me:hunter22@host/runs/mine", elsewhere.output_path)
    assert "hunter22" not in str(error.value)


def test_credentials_of_the_environment_and_of_fsspecs_config_are_masked(faulty, monkeypatch):
    import fsspec

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter33")
    monkeypatch.setitem(fsspec.config.conf, "faulty", {"fault": 0, "client_kwargs": {"session_token": "hunter44"}})
    monkeypatch.setattr(faulty, "__init__", lambda self, **options: None)
    from noether.config.secrets import mask

    with pytest.raises(AttributeError):  # the file system is not set up
        Store("faulty://bucket/runs", "mine").owner()
    assert mask("hunter33 hunter44") == "*** ***"


def test_a_folder_of_that_name_is_not_replaced(mirrored, faulty, elsewhere):
    elsewhere.run_path.mkdir(parents=True)
    with pytest.raises(UsageError, match="exists already"):
        fetch_run("faulty://bucket/runs/mine", elsewhere.output_path)
