"""Loading a batch at once if the result is the same, else sample by sample."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.data.collators import stack
from noether.data.dataset import Dataset, InMemoryDataset
from noether.data.fetch import FetchSamples, fetch_of
from noether.errors import DataError, TrainingError


class Noisy(Dataset):
    """Draws from all three generators."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = torch.tensor([random.random(), float(np.random.rand()), float(torch.rand(()))])
        return {"x": index + noise}


class Broken(Dataset):
    deterministic = True

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index == 2:
            raise ValueError("bad record")
        return {"x": torch.ones(1)}


def state() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, keys.tobytes(), *rest, torch.get_rng_state().numpy().tobytes()


def test_a_sample_is_the_same_in_every_batch() -> None:
    fetch = fetch_of(Noisy(), seed=1)
    together = fetch(torch.tensor([4, 1]), 3)["x"]
    assert torch.equal(fetch(torch.tensor([1]), 3)["x"][0], together[1])


def test_a_sample_differs_between_epochs_and_seeds() -> None:
    sample = fetch_of(Noisy(), seed=1)(torch.tensor([1]), 3)["x"]
    assert (sample != fetch_of(Noisy(), seed=1)(torch.tensor([1]), 4)["x"]).all()
    assert (sample != fetch_of(Noisy(), seed=2)(torch.tensor([1]), 3)["x"]).all()


def test_loading_leaves_the_generators_of_the_process_alone() -> None:
    before = state()
    fetch_of(Noisy(), seed=1)(torch.tensor([0, 1, 2]), 0)
    assert state() == before


def test_a_custom_collator_gets_the_samples() -> None:
    dataset = InMemoryDataset({"x": torch.arange(4.0)})
    fetch = fetch_of(dataset, 0, lambda samples: {"sum": sum(stack(samples)["x"]).view(1)})
    assert fetch(torch.tensor([1, 2]), 0)["sum"].tolist() == [3]


def test_an_error_names_the_sample() -> None:
    for deterministic in (True, False):
        dataset = Broken()
        dataset.deterministic = deterministic
        with pytest.raises(ValueError) as caught:
            fetch_of(dataset, seed=0)(torch.tensor([0, 2]), 0)
        assert caught.value.__notes__ == ["while loading sample 2 of Broken"]


@dataclass(frozen=True)
class Unwritable(Exception):  # noqa: N818  # as a user may name it
    """Refuses notes, as every frozen dataclass does."""

    code: int


class Unreadable(Dataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        raise Unwritable(index)


def test_an_error_that_takes_no_note_names_the_sample_all_the_same() -> None:
    with pytest.raises(TrainingError, match="Unwritable") as caught:
        FetchSamples(Unreadable(), stack)(torch.tensor([2]), 0)
    assert any("sample 2 of" in said for said in caught.value.__notes__)


class OneBuffer(Dataset):
    """Returns the same memory for every sample."""

    deterministic = True

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.x, self.grid = form, torch.zeros(2), torch.full((3,), torch.nan)
        self.array, self.sample = np.zeros(2), {"x": torch.zeros(2)}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        if self.form == "a dict":
            self.sample["x"] = torch.full((2,), float(index))
            return self.sample
        self.x.fill_(index)
        self.array.fill(index)
        x = {"a tensor": self.x, "a view": self.x[:1], "an array": self.array}.get(self.form, self.x.clone())
        return {"x": x, "grid": self.grid}


@pytest.mark.parametrize("form", ["a tensor", "a view", "an array", "a dict"])
def test_samples_that_overwrite_each_other_are_refused(form: str) -> None:
    with pytest.raises(DataError, match="'x' of sample 2"):
        fetch_of(OneBuffer(form), seed=0)(torch.tensor([2, 1, 3]), 0)


def test_samples_may_have_a_part_in_common() -> None:
    batch = fetch_of(OneBuffer("copies"), seed=0)(torch.tensor([2, 1, 3]), 0)
    assert batch["x"][:, 0].tolist() == [2.0, 1.0, 3.0]
    assert batch["grid"].shape == (3, 3)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@given(
    dtype=st.sampled_from([*DTYPES, torch.complex64]),
    layout=st.sampled_from(["plain", "transposed", "column", "expanded", "empty", "scalars", "conjugate"]),
    indices=st.lists(st.integers(0, 4), max_size=6).filter(bool),
)
def test_a_batch_that_is_gathered_is_the_one_that_is_collated(
    dtype: torch.dtype, layout: str, indices: list[int]
) -> None:
    values = (torch.arange(15).view(5, 3) % 7).to(dtype)
    values = {
        "plain": values,
        "transposed": values.view(3, 5).T,
        "column": values[:, 1:2],
        "expanded": values[:1].expand(5, 3),
        "empty": values[:, :0],
        "scalars": values[:, 0],
        "conjugate": values.conj(),
    }[layout]
    dataset = InMemoryDataset({"x": values})
    gathered, collated = (
        fetch(torch.tensor(indices), 0)["x"] for fetch in (fetch_of(dataset, 0), FetchSamples(dataset, stack))
    )
    assert gathered.dtype == collated.dtype
    assert torch.equal(gathered, collated)
