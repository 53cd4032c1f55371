"""Raw samples: what a run records of them, and how given numbers become a batch of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noether.checkpoint.paths import PathProvider
from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.errors import DataError
from noether.runs.folder.run_folder import SAMPLES
from noether.runs.predict.inputs import RawProperty, as_batch, recorded_properties

PROPERTIES = {"x": RawProperty((3,), torch.float32), "n": RawProperty((), torch.int64)}


@pytest.fixture
def paths(tmp_path: Path) -> PathProvider:
    (tmp_path / "run").mkdir()
    return PathProvider(tmp_path, "run")


def recorded(paths: PathProvider, record: Any) -> dict[str, RawProperty]:
    (paths.run_path / "run.json").write_text(json.dumps({SAMPLES: record}))
    return recorded_properties(paths)


def test_a_run_records_the_properties_of_its_samples(paths: PathProvider) -> None:
    samples = InMemoryDataset({"x": torch.ones(4, 3), "n": torch.arange(4)})
    assert recorded(paths, DataContainer({"test": samples}).raw_properties()) == PROPERTIES


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {"x": 1},
        {"x": {"shape": [3]}},
        {"x": {"shape": [3], "dtype": "float33"}},
        {"x": {"shape": [3], "dtype": "load"}},
        {"x": {"shape": [-3], "dtype": "float32"}},
        {"x": {"shape": ["3"], "dtype": "float32"}},
        {"x": {"shape": [1 << 40], "dtype": "float32"}},
    ],
)
def test_a_record_that_no_run_wrote_is_not_believed(paths: PathProvider, record: Any) -> None:
    assert recorded(paths, record) == {}


def test_a_run_without_a_record_has_none(paths: PathProvider) -> None:
    assert recorded_properties(paths) == {}


def test_numbers_get_the_types_of_training() -> None:
    batch, single = as_batch({"x": np.ones((2, 3), np.int32), "n": np.array([1.0, 2.0]), "other": "text"}, PROPERTIES)
    assert {name: values.dtype for name, values in batch.items()} == {"x": torch.float32, "n": torch.int64}
    assert not single


def test_fractions_are_not_cut_off_where_training_had_whole_numbers() -> None:
    batch, single = as_batch({"n": 1.5}, PROPERTIES)
    assert batch["n"].tolist() == [1.5]
    assert single


def test_numbers_that_float32_cannot_hold_are_kept_for_transforms() -> None:
    batch, _ = as_batch({"x": [1e9 + 1, 2.0, 3.0]}, PROPERTIES)
    assert batch["x"].tolist() == [[1e9 + 1, 2.0, 3.0]]


@pytest.mark.parametrize(
    "given",
    [
        {"x": np.ones((2, 3)), "n": np.ones(3)},
        {"x": np.ones((2, 3)), "n": 1},
        {"x": np.array([object()] * 3)},
        {"n": np.array([1 << 63], np.uint64)},
        {"n": np.array([1 + 2j])},
    ],
)
def test_inputs_that_do_not_fit_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        as_batch(given, PROPERTIES)
