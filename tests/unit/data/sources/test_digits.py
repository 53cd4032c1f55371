"""The digits that come with scikit-learn."""

import subprocess
import sys

import pytest
import torch
from sklearn.datasets import load_digits

from noether.data.sources.digits import DigitsConfig, DigitsDataset


def digits(**options: object) -> DigitsDataset:
    return DigitsDataset(DigitsConfig.model_validate(options))


def test_samples_are_images_between_zero_and_one_and_a_label() -> None:
    dataset = digits()
    sample = dataset[0]
    assert sample["image"].shape == (1, 8, 8)
    assert sample["image"].dtype == torch.float32
    assert sample["label_target"].dtype == torch.int64
    assert dataset.properties["image"].aminmax() == (0, 1)


def test_both_parts_together_are_scikit_learns_digits() -> None:
    parts = [digits(split=split, split_seed=3).properties for split in ("train", "test")]
    images = torch.cat([part["image"] for part in parts]).flatten(1)
    labels = torch.cat([part["label_target"] for part in parts])
    expected = load_digits()
    assert [len(part["image"]) for part in parts] == [1438, 359]
    rows = sorted([*image, label] for image, label in zip((images * 16).tolist(), labels.tolist(), strict=True))
    assert rows == sorted(
        [*image, label] for image, label in zip(expected.data.tolist(), expected.target.tolist(), strict=True)
    )


def test_a_split_seed_overrides_the_seed_of_the_run() -> None:
    config = DigitsConfig(split_seed=3)
    one, other = (DigitsDataset(config, seed=seed).properties["label_target"] for seed in (0, 1))
    assert torch.equal(one, other)


@pytest.mark.slow
def test_reading_imports_neither_scikit_learn_nor_pandas() -> None:
    code = (
        "import sys; from noether.data.sources.digits import *; DigitsDataset(DigitsConfig());"
        "assert not {'sklearn', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
