"""Random generators that belong to a data set or its transforms: a stream for each sample, whoever loads it."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from noether.data.container import DataContainer
from noether.data.dataset import Dataset
from noether.data.fetch import private_generators
from noether.data.transforms import Transform

OF_THE_MODULE = np.random.default_rng(0)


class Augment:
    """A part of a data set that is neither a data set nor a transform."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self.draw = draw


def in_a_closure() -> Callable[[], float]:
    generator = np.random.default_rng(0)
    return lambda: generator.random()


def drawing(generator: Any) -> float:
    return float(generator.random()) if not isinstance(generator, torch.Generator) else draw_of_torch(generator)


def draw_of_torch(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator).item()


GENERATORS: dict[str, Callable[[], Any]] = {
    "numpy": lambda: np.random.default_rng(0),
    "numpy, another kind": lambda: np.random.Generator(np.random.MT19937(0)),
    "numpy, the old kind": lambda: np.random.RandomState(0),
    "python": lambda: random.Random(0),
    "torch": lambda: torch.Generator().manual_seed(0),
}


class Noisy(Dataset):
    """Draws from generators of its own."""

    def __init__(self, held: Any, draw: Callable[[Any], float]) -> None:
        super().__init__()
        self.held, self.draw = held, draw

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"index": torch.tensor(index), "noise": torch.tensor(self.draw(self.held), dtype=torch.float64)}


class Jitter(Transform):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample | {"noise": sample["noise"] + self.generator.random()}


def noise(dataset: Dataset, workers: int = 0, transforms: tuple[Transform, ...] = ()) -> list[float]:
    """Return the noise of two epochs by epoch and index."""
    data = DataContainer({"train": dataset}, num_workers=workers, seed=3, transforms=transforms)
    batches = [one.batch for one in data.build_loader(batch_size=4, end_update=8)]
    epochs = [{}, {}]
    for place, batch in enumerate(batches):
        epochs[place // 4] |= dict(zip(batch["index"].tolist(), batch["noise"].tolist(), strict=True))
    return [epoch[index] for epoch in epochs for index in range(16)]


def pickled(held: Any) -> float:
    return drawing(held)


@pytest.mark.parametrize("kind", GENERATORS)
def test_every_sample_has_its_own_numbers_the_same_at_each_time(kind: str) -> None:
    first = noise(Noisy(GENERATORS[kind](), drawing))
    assert len(set(first)) == 32
    assert noise(Noisy(GENERATORS[kind](), drawing)) == first


def test_workers_draw_the_numbers_of_no_workers() -> None:
    dataset = Noisy({"parts": [Augment(partial(drawing, np.random.default_rng(0)))]}, of_the_part)
    assert noise(dataset, workers=2, transforms=(Jitter(),)) == noise(dataset, transforms=(Jitter(),))


def of_the_part(held: Any) -> float:
    return float(held["parts"][0].draw())


def test_two_generators_of_one_object_draw_different_numbers() -> None:
    pair = (np.random.default_rng(0), np.random.default_rng(0))
    assert all(noise(Noisy(pair, lambda pair: float(pair[0].random() - pair[1].random()))))


@pytest.mark.parametrize(
    ("holder", "number"),
    [
        (in_a_closure(), 2),
        (Augment(in_a_closure()).draw, 2),
        (partial(drawing, random.Random(0)), 2),
        ({"a": [GENERATORS["torch"]()], "b": (GENERATORS["python"](),)}, 2),
        (Augment, 0),
        (object(), 0),
        ([1, "text", torch.ones(1), None], 0),
    ],
    ids=["closure", "method", "partial", "containers", "class", "object", "values"],
)
def test_generators_are_found_in_closures_containers_and_modules(holder: Any, number: int) -> None:
    assert len(private_generators(holder)) == number


def test_an_object_that_holds_itself_is_searched_once() -> None:
    holder = Augment(in_a_closure())
    holder.draw = holder  # type: ignore[assignment]  # a cycle
    assert private_generators(holder) == [OF_THE_MODULE]


@pytest.mark.parametrize("kind", GENERATORS)
def test_loading_in_this_process_leaves_them_where_they_were(kind: str) -> None:
    generator = GENERATORS[kind]()
    noise(Noisy(generator, drawing))
    assert drawing(generator) == drawing(GENERATORS[kind]())


def test_a_deterministic_data_set_keeps_its_generators() -> None:
    dataset = Noisy(np.random.default_rng(0), drawing)
    dataset.deterministic = True
    noise(dataset)
    assert dataset.held.random() == np.random.default_rng(0).random(33)[-1]
