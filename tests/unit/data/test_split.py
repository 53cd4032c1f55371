"""Splits: disjoint, complete, repeatable; by chance, by group, by time and in folds."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from noether.data.randomness import permutation
from noether.data.sources.bundled import DigitsConfig, DigitsDataset
from noether.data.sources.file import FileConfig
from noether.data.splits import (
    ColumnSplitConfig,
    part_indices,
    require_one_split,
    split_indices,
    train_test_indices,
)
from noether.errors import DataError

PARTS = ("train", "validation", "test")
shares = st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any)


def parts_of(n: int, codes: torch.Tensor | None = None, seed: int = 0, **options: Any) -> dict[str, torch.Tensor]:
    names = PARTS if options.get("validation_fraction") else ("train", "test")
    made = {}
    for name in names:
        found = part_indices(ColumnSplitConfig(kind="file", split=name, **options), n, seed, codes)
        assert found is not None
        made[name] = found
    return made


def everything(parts: dict[str, torch.Tensor]) -> list[int]:
    return sorted(index for part in parts.values() for index in part.tolist())


@given(n=st.integers(0, 300), weights=shares, seed=st.integers())
def test_parts_are_disjoint_and_cover_everything(n: int, weights: list[int], seed: int) -> None:
    fractions = {f"part{place}": weight / sum(weights) for place, weight in enumerate(weights)}
    parts = split_indices(n, fractions, seed)
    assert everything(parts) == list(range(n))
    assert all(abs(len(parts[name]) - share * n) <= 1 for name, share in fractions.items())


def test_train_and_test_are_the_two_sides_of_one_split() -> None:
    train = train_test_indices(1797, "train", 0.2, seed=3)
    test = train_test_indices(1797, "test", 0.2, seed=3)
    assert (len(train), len(test)) == (1438, 359)
    assert torch.cat([train, test]).sort().values.tolist() == list(range(1797))


def test_a_split_is_that_of_earlier_versions() -> None:
    assert train_test_indices(20, "test", 0.2, 0).tolist() == [2, 4, 17, 19]
    assert train_test_indices(20, "test", 0.3, 5).tolist() == [3, 4, 12, 15, 17, 18]


def test_another_seed_gives_another_split() -> None:
    assert not torch.equal(train_test_indices(100, "test", 0.2, 0), train_test_indices(100, "test", 0.2, 1))


def test_a_split_does_not_follow_the_order_of_the_first_epoch() -> None:
    held_out = set(train_test_indices(100, "test", 0.2, seed=0).tolist())
    assert held_out != set(permutation(100, seed=0, epoch=0)[:20].tolist())


@pytest.mark.parametrize("fractions", [{"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_fractions_that_are_no_division_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(DataError) as caught:
        split_indices(10, fractions, seed=0)
    assert "1" in str(caught.value)


# Parts of a data set

tested, held = st.floats(0.05, 0.45), st.floats(0.05, 0.45)


@given(n=st.integers(20, 400), tested=tested, held=held, seed=st.integers())
def test_three_parts_are_disjoint_and_cover_everything(n: int, tested: float, held: float, seed: int) -> None:
    parts = parts_of(n, seed=seed, test_fraction=tested, validation_fraction=held)
    assert everything(parts) == list(range(n))
    assert torch.equal(parts["test"], train_test_indices(n, "test", tested, seed)), "validation took samples of `test`"
    assert abs(len(parts["validation"]) - held * n) <= 1


@given(n=st.integers(3, 500), seed=st.integers())
def test_without_validation_the_parts_are_those_of_earlier_versions(n: int, seed: int) -> None:
    for name, found in parts_of(n, seed=seed).items():
        assert torch.equal(found, train_test_indices(n, name, 0.2, seed))


def test_the_parts_of_the_digits_are_those_of_every_split() -> None:
    parts = {"train": DigitsConfig(kind="digits"), "test": DigitsConfig(kind="digits", split="test")}
    made = {name: DigitsDataset(config, seed=3).properties["label_target"] for name, config in parts.items()}
    labels = torch.empty(1797, dtype=torch.int64)
    for name, held in made.items():
        labels[train_test_indices(1797, name, 0.2, 3)] = held
    assert labels[:10].tolist() == list(range(10)), "the file begins with the digits in their order"


@given(n=st.integers(30, 300), folds=st.integers(2, 6), held=st.sampled_from([0.0, 0.2]), seed=st.integers())
def test_every_sample_is_tested_in_one_fold(n: int, folds: int, held: float, seed: int) -> None:
    every = [parts_of(n, seed=seed, folds=folds, fold=fold, validation_fraction=held) for fold in range(folds)]
    assert all(everything(parts) == list(range(n)) for parts in every)
    assert sorted(index for parts in every for index in parts["test"].tolist()) == list(range(n))


groups = st.lists(st.integers(0, 11), min_size=24, max_size=120)


def codes_of(values: list[int]) -> torch.Tensor:
    return torch.unique(torch.tensor([*values, *range(12)]), return_inverse=True)[1]


@given(values=groups, seed=st.integers(), folds=st.sampled_from([None, 2, 5]), held=st.sampled_from([0.0, 0.2]))
def test_no_group_is_in_two_parts(values: list[int], seed: int, folds: int | None, held: float) -> None:
    codes = codes_of(values)
    tested = []
    for fold in range(folds or 1):
        cut = {"folds": folds, "fold": fold} if folds else {}
        parts = parts_of(len(codes), codes, seed, split_by="g", validation_fraction=held, **cut)
        assert everything(parts) == list(range(len(codes)))
        assert all(len(part) for part in parts.values())
        inside = [set(codes[part].tolist()) for part in parts.values()]
        assert sum(map(len, inside)) == 12
        tested += parts["test"].tolist()
    assert not folds or sorted(tested) == list(range(len(codes)))


@given(values=groups, seed=st.integers())
def test_the_order_of_rows_does_not_decide_the_part_of_a_group(values: list[int], seed: int) -> None:
    codes = codes_of(values)
    turned = codes.flip(0)
    one, other = (parts_of(len(codes), each, seed, split_by="g")["test"] for each in (codes, turned))
    assert set(codes[one].tolist()) == set(turned[other].tolist())


@given(values=groups)
def test_the_last_times_are_tested_and_those_before_them_validated(values: list[int]) -> None:
    codes = codes_of(values)
    parts = parts_of(len(codes), codes, split_time="t", validation_fraction=0.2)
    assert everything(parts) == list(range(len(codes)))
    assert codes[parts["train"]].max() < codes[parts["validation"]].min()
    assert codes[parts["validation"]].max() < codes[parts["test"]].min()


def test_groups_that_are_too_few_for_the_parts_are_refused() -> None:
    with pytest.raises(DataError, match="found 2 different values"):
        parts_of(10, torch.tensor([0, 1] * 5), split_by="g", validation_fraction=0.2)
    with pytest.raises(DataError, match="found 3 different values"):
        parts_of(9, torch.tensor([0, 1, 2] * 3), split_by="g", folds=4, fold=0)


def test_a_group_that_is_most_of_the_data_is_trained_on() -> None:
    codes = torch.tensor([0] * 90 + [1, 2, 3, 4, 5, 6, 7])
    for seed in range(5):
        parts = parts_of(97, codes, seed, split_by="g", validation_fraction=0.15)
        assert 0 in parts["train"]


def test_a_part_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match='found 2, of which split = "test" gets none'):
        parts_of(2)
    with pytest.raises(DataError, match="too few samples for folds = 10: found 9"):
        parts_of(9, folds=10, fold=0)


@pytest.mark.parametrize(
    "options",
    [
        {"folds": 5},
        {"fold": 0},
        {"folds": 3, "fold": 3},
        {"folds": 3, "fold": 0, "test_fraction": 0.3},
        {"folds": 2, "fold": 0, "validation_fraction": 0.5},
        {"test_fraction": 0.5, "validation_fraction": 0.5},
        {"split": "validation"},
        {"split_by": "a", "split_time": "b"},
        {"split_time": "b", "folds": 2, "fold": 0},
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ColumnSplitConfig.model_validate({"kind": "file", **options})


def files(first: dict[str, Any], second: dict[str, Any]) -> dict[str, FileConfig]:
    made = {"train": {"split": "train", **first}, "test": {"split": "test", **second}}
    return {key: FileConfig.model_validate({"kind": "file", "path": "a.csv", **one}) for key, one in made.items()}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"test_fraction": 0.2}, {"test_fraction": 0.3}),
        ({"validation_fraction": 0.1}, {}),
        ({"split_seed": 1}, {}),
        ({"split_by": "g"}, {}),
        ({"categories": {"m": ["a", "b"]}}, {"categories": {"m": ["b", "a"]}}),
    ],
)
def test_parts_of_one_file_that_do_not_fit_together_are_refused(first: dict[str, Any], second: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(first)).split("_")[0]):
        require_one_split(files(first, second))


def test_parts_of_two_files_need_not_fit_together() -> None:
    require_one_split(files({"test_fraction": 0.3}, {"path": "b.csv"}))
