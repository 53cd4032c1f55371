"""Shards behind a server of range requests on loopback."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from noether_plugin_webdataset import files
from noether_plugin_webdataset.dataset import ShardDataset, ShardDatasetConfig
from webdataset import TarWriter

from noether.data import DataContainer
from noether.errors import DataError

pytest.importorskip("aiohttp")


class Server(ThreadingHTTPServer):
    """Serves the files of a folder, and keeps the sizes of its answers; `faults` is how many requests still fail."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.answers, self.faults, self.knows_ranges = folder, list[int](), 0, True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers with a whole file or a range of it."""

    server: Server

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(is_head=True)

    def do_GET(self) -> None:
        self.answer(is_head=False)

    def answer(self, *, is_head: bool) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if self.server.faults > 0 or not path.is_file():
            self.server.faults -= 1
            self.send_error(503 if path.is_file() else 404)
            return
        content, size = path.read_bytes(), path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.server.knows_ranges else None
        if asked:
            content = content[int(asked[1]) : int(asked[2] or size) + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if self.server.knows_ranges:
            self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(content) - 1}/{size}")
        self.end_headers()
        if not is_head:
            self.server.answers.append(len(content))
            self.wfile.write(content)


@pytest.fixture
def server(tiny_shards: Path, tmp_path: Path) -> Iterator[Server]:
    for path in tiny_shards.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with Server(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def opened(server: Server, tmp_path: Path, name: str = "tiny-{000000..000004}.tar") -> ShardDataset:
    return ShardDataset(
        ShardDatasetConfig(kind="webdataset", shards=f"{server.url}/{name}", index=str(tmp_path / "index"))
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_are_read_by_range_requests(server: Server, tmp_path: Path, tiny_shards: Path, num_workers: int):
    local = ShardDataset(ShardDatasetConfig(kind="webdataset", shards=str(tiny_shards)))
    remote = opened(server, tmp_path)
    batches = []
    for data in (remote, local):
        loader = DataContainer({"train": data}, num_workers=num_workers).build_loader(batch_size=6, end_update=4)
        if data is remote:
            server.answers.clear()
        batches.append([tagged.batch for tagged in loader])
    assert all(torch.equal(one["x"], other["x"]) for one, other in zip(*batches, strict=True))
    assert len(server.answers) == 24 and max(server.answers) < 4096  # a request for each sample, of its members only


def test_a_large_member_that_is_not_chosen_is_not_read(server: Server, tmp_path: Path):
    with TarWriter(str(tmp_path / "wing.tar")) as writer:
        one = np.ones(3)
        writer.write({"__key__": "a", "x.npy": one, "y.npy": one, "x2.npy": np.ones(1 << 16), "z.npy": one})
    config = ShardDatasetConfig(
        kind="webdataset",
        shards=f"{server.url}/wing.tar",
        index=str(tmp_path / "index"),
        properties={name: name for name in "xyz"},
    )
    data = ShardDataset(config)
    server.answers.clear()
    assert [values.tolist() for values in data[0].values()] == [[1, 1, 1]] * 3
    assert len(server.answers) == 2 and sum(server.answers) < 4096


def test_a_second_start_reads_no_headers_again_unless_a_shard_has_changed(server: Server, tmp_path: Path):
    opened(server, tmp_path)
    server.answers.clear()
    opened(server, tmp_path)
    assert len(server.answers) == 1  # the first sample
    (tmp_path / "tiny-000002.tar").touch()
    opened(server, tmp_path)
    assert len(server.answers) > 2


def test_a_request_that_fails_is_repeated(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr(files.time, "sleep", waits.append)
    data = opened(server, tmp_path)
    server.faults = 2
    assert len(data.__getitems__([3])["x"]) == 1 and waits == [1, 2]
    server.faults = 1000
    with pytest.raises(DataError, match=r"tiny-000000\.tar"):
        data.__getitems__([3])


def test_a_server_without_ranges_or_files_is_refused(server: Server, tmp_path: Path):
    with pytest.raises(DataError, match=r"nothing\.tar"):
        opened(server, tmp_path, "nothing.tar")
    data = opened(server, tmp_path)
    server.knows_ranges = False
    with pytest.raises(DataError, match="range request"):
        data.__getitems__([3])
