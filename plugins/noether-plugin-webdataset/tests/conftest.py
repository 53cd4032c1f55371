"""Shards of the tests, written by webdataset; the cache of the user is a folder of the session."""

import atexit
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

HOME = Path(tempfile.mkdtemp(prefix="webdataset-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = str(HOME / "cache")  # worker processes get it too


@pytest.fixture(scope="session")
def tiny_shards() -> Path:
    """The samples of the tiny data set in shards of five, as .npy."""
    from webdataset import ShardWriter

    from noether.testing import make_data

    columns = {name: values.numpy() for name, values in make_data().train.properties.items()}
    (HOME / "tiny").mkdir(exist_ok=True)
    with ShardWriter(str(HOME / "tiny" / "tiny-%06d.tar"), maxcount=5, verbose=0) as writer:
        for sample in range(len(next(iter(columns.values())))):
            rows = {f"{name}.npy": values[sample] for name, values in columns.items()}
            writer.write({"__key__": f"{sample:06d}", **rows})
    return HOME / "tiny"


@pytest.fixture
def shard(tmp_path: Path):
    """Return a function that writes members, by name, to a shard by hand."""

    def write(members: dict[str, bytes | tarfile.TarInfo], name: str = "a.tar", **options) -> Path:
        with tarfile.open(tmp_path / name, "w", **options) as archive:
            for member, content in members.items():
                if isinstance(content, tarfile.TarInfo):
                    archive.addfile(content)
                else:
                    entry = tarfile.TarInfo(member)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        return tmp_path / name

    return write
