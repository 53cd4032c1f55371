"""Several data sets as one: the same samples in every form, and refusals that name the difference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import Field, TypeAdapter, ValidationError

from noether.config.components import DatasetBaseConfig
from noether.config.discriminated import Discriminated
from noether.data.build import build_data, build_dataset
from noether.data.dataset import AnyDataset, Dataset, InMemoryDataset, StoredDataset, length_of
from noether.data.fetch import fetch_of
from noether.data.mixtures import GatheredParts, Parts, StoredParts, joined
from noether.data.sampling import mixture_of
from noether.errors import DataError


class OneByOne(Dataset):
    """Rows that are loaded sample by sample."""

    deterministic = True

    def __init__(self, rows: InMemoryDataset) -> None:
        super().__init__()
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


class InBatches(OneByOne):
    """Rows that are loaded in batches."""

    def __getitems__(self, indices: Any) -> Any:
        return self.rows.__getitems__(indices)


class OnDisk(StoredDataset):
    """Rows of float64 as a file has them."""

    holds_doubles = True

    def __init__(self, rows: InMemoryDataset) -> None:
        super().__init__()
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: values.double() for name, values in self.rows.__getitems__(indices).items()}


def rows(start: int, n: int) -> InMemoryDataset:
    return InMemoryDataset({"x": torch.arange(start, start + n, dtype=torch.float32)})


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (lambda part: part, InMemoryDataset),
        (OneByOne, Parts),
        (InBatches, GatheredParts),
        (OnDisk, StoredParts),
    ],
)
def test_samples_lie_one_behind_the_other_in_every_form(form: Any, kind: type[AnyDataset]) -> None:
    whole = joined([form(rows(0, 3)), form(rows(10, 2)), form(rows(20, 4))])
    assert type(whole) is kind
    assert [whole[at]["x"].item() for at in range(length_of(whole))] == [0, 1, 2, 10, 11, 20, 21, 22, 23]
    batch = fetch_of(whole, 0)(torch.tensor([8, 0, 3, 3, 7]), 0)
    assert batch["x"].tolist() == [23, 0, 10, 10, 22]
    assert batch["x"].dtype == torch.float32


def test_parts_in_memory_and_on_disk_join() -> None:
    whole = joined([rows(0, 3), OnDisk(rows(10, 2))])
    assert fetch_of(whole, 0)(torch.tensor([4, 1]), 0)["x"].tolist() == [11, 1]


@pytest.mark.parametrize(
    "other",
    [
        {"y": torch.ones(2)},
        {"x": torch.ones(2), "y": torch.ones(2)},
        {"x": torch.ones(2, 3)},
        {"x": torch.ones(2, dtype=torch.int64)},
    ],
)
def test_other_properties_are_refused(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DataError) as refused:
        joined([rows(0, 3), InMemoryDataset(other)])
    assert "parts 0" in str(refused.value)


def config(table: dict[str, Any]) -> DatasetBaseConfig:
    found: DatasetBaseConfig = TypeAdapter(Annotated[Any, Discriminated("dataset")]).validate_python(table)
    return found


@pytest.fixture
def files(tmp_path: Path) -> list[dict[str, Any]]:
    for name, values in {"a": np.arange(6.0), "b": np.arange(100.0, 102.0)}.items():
        np.savez(tmp_path / f"{name}.npz", x=values, label=values.astype(int) % 2)
    return [{"kind": "file", "path": str(tmp_path / f"{name}.npz")} for name in "ab"]


def test_statistics_are_those_of_every_sample_once(files: list[dict[str, Any]]) -> None:
    normalize = {"kind": "normalize", "properties": ["x"]}
    tables = {
        "concat": {"kind": "concat", "parts": files, "transforms": [normalize]},
        "mixture": {"kind": "mixture", "parts": files, "weights": [1, 9], "transforms": [normalize]},
    }
    for table in tables.values():
        data = build_data({"train": config(table)})
        expected = torch.tensor([*range(6), 100, 101]).double().mean()
        assert data.inverse("x", torch.zeros(1)).item() == pytest.approx(expected.item())


def test_a_mixture_draws_by_weight_in_an_epoch_of_its_length(files: list[dict[str, Any]]) -> None:
    table = {"kind": "mixture", "parts": files, "weights": [1, 3], "samples_per_epoch": 16}
    data = build_data({"train": config(table)})
    assert (length_of(data.train), data.samples_per_epoch) == (8, 16)
    loader = data.build_loader(batch_size=4, end_update=8)
    drawn = torch.cat([batch.batch["x"] for batch in loader])
    assert [(epoch >= 100).sum().item() for epoch in drawn.split(16)] == [12, 12]  # type: ignore[no-untyped-call]
    assert torch.equal(
        torch.cat([batch.batch["x"] for batch in data.build_loader(batch_size=4, start_update=5, end_update=8)]),
        drawn[20:],
    )


def test_a_concat_of_concats_is_one(files: list[dict[str, Any]]) -> None:
    whole = build_dataset(config({"kind": "concat", "parts": [{"kind": "concat", "parts": files}, files[0]]}))
    assert isinstance(whole, InMemoryDataset)
    assert len(whole) == 14
    assert mixture_of(whole) is None


def test_a_fitted_transform_of_a_part_is_refused(files: list[dict[str, Any]]) -> None:
    part = files[0] | {"transforms": [{"kind": "normalize", "properties": ["x"]}]}
    with pytest.raises(DataError) as refused:
        build_dataset(config({"kind": "concat", "parts": [part]}))
    assert refused.value.path[:2] == ("parts", 0)


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, -1]])
def test_wrong_weights_are_refused(files: list[dict[str, Any]], weights: list[float]) -> None:
    with pytest.raises((DataError, ValidationError)):
        build_dataset(config({"kind": "mixture", "parts": files, "weights": weights}))


def test_collate_of_a_part_is_refused(files: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError):
        config({"kind": "concat", "parts": [files[0] | {"collate": "pad"}]})


def test_a_mixture_as_a_part_is_refused(files: list[dict[str, Any]]) -> None:
    part = {"kind": "mixture", "parts": files, "weights": [1, 1]}
    with pytest.raises(DataError):
        build_dataset(config({"kind": "concat", "parts": [part]}))


def test_parts_whose_categories_have_other_numbers_are_refused() -> None:
    class Named(DatasetBaseConfig):
        names: list[str] = Field(default_factory=list)

        def categories_by_name(self) -> dict[str, list[str]]:
            return {"material": self.names}

    parts = [InMemoryDataset({"x": torch.ones(2)}, Named(names=names)) for names in (["oak", "steel"], ["steel"])]
    with pytest.raises(DataError) as refused:
        joined(parts)
    assert "material" in str(refused.value)
