"""The data set keeps the contract of its role, mapped and streamed."""

import os
from pathlib import Path

import pytest

from noether.testing import DatasetContract

HOME = Path(os.environ["HF_HOME"])


@pytest.mark.usefixtures("tiny_folder")
class TestArrow(DatasetContract):
    config = {"kind": "hf-datasets", "path": str(HOME / "tiny")}


@pytest.mark.usefixtures("tiny_folder")
class TestStreamedParquet(DatasetContract):
    config = {"kind": "hf-datasets/hf-datasets", "path": str(HOME / "parquet"), "streaming": True}
