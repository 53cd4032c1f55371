"""The data set keeps the contract of its role."""

import os
from pathlib import Path

import pytest

from noether.testing import DatasetContract

TINY = Path(os.environ["XDG_CACHE_HOME"]).parent / "tiny"


@pytest.mark.usefixtures("tiny_shards")
class TestShards(DatasetContract):
    config = {"kind": "webdataset", "shards": f"{TINY}/tiny-{{000000..000002}}.tar"}
