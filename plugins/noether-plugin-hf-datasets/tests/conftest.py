"""Data sets of the tests; the cache of `datasets` is a folder of the session."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

HOME = Path(tempfile.mkdtemp(prefix="hf-datasets-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ["HF_HOME"] = str(HOME)  # before `datasets` is imported; worker processes get it too
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """The samples of the tiny data set as `save_to_disk` writes them, and as Parquet in row groups of five."""
    from datasets import Dataset

    from noether.testing import make_data

    columns = {name: values.tolist() for name, values in make_data().train.properties.items()}
    data = Dataset.from_dict(columns)
    data.save_to_disk(HOME / "tiny")
    (HOME / "parquet").mkdir(exist_ok=True)
    data.to_parquet(HOME / "parquet" / "tiny.parquet", batch_size=5)
    return HOME
