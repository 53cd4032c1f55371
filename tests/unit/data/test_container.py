"""The run's data sets by key, their transforms, and the loader over them."""

from typing import Any

import pytest
import torch

from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.data.transforms import Normalize, NormalizeConfig, Transform
from noether.errors import DataError


class Scale(Transform):
    """A change of units, with an inverse."""

    deterministic = True
    batched = True

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample | {"x": sample["x"] * 1000}

    def inverts(self, name: str) -> bool:
        return name == "x"

    def inverse(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor / 1000 if name == "x" else tensor


def normalize() -> Normalize:
    return Normalize(NormalizeConfig(kind="normalize", properties=["x"], method="min-max"))


def datasets() -> dict[str, InMemoryDataset]:
    return {
        "train": InMemoryDataset({"x": torch.tensor([[1.0], [3.0]])}),
        "test": InMemoryDataset({"x": torch.tensor([[5000.0], [9000.0]])}),
    }


def test_data_sets_are_found_by_key_and_the_first_without_one() -> None:
    data = DataContainer(datasets())
    assert data.keys() == ("train", "test")
    assert data.get_dataset("test") is data.get_dataset("test")
    assert data.get_dataset() is data.train


def test_an_unknown_key_is_named_with_the_ones_there_are() -> None:
    with pytest.raises(DataError) as caught:
        DataContainer(datasets()).get_dataset("tset")
    assert "'tset'" in str(caught.value)
    assert "'test'" in str(caught.value)


@pytest.mark.parametrize("held", [{}, {"test": datasets()["test"]}])
def test_missing_training_set_is_an_error_where_training_is_asked_for(
    held: dict[str, InMemoryDataset],
) -> None:
    data = DataContainer(held)
    with pytest.raises(DataError) as caught:
        data.build_loader(batch_size=1)
    assert "[datasets.train]" in str(caught.value.hint)
    with pytest.raises(DataError) as caught:
        _ = data.train
    assert "[datasets.train]" in str(caught.value.hint)


def test_evaluation_needs_no_training_set() -> None:
    data = DataContainer({"test": datasets()["test"]})
    (batch,) = data.build_loader([data.sampler_config("test")], batch_size=2, evaluation=True)
    assert batch.batch["x"].tolist() == [[5000], [9000]]


def test_statistics_come_from_the_training_set_alone() -> None:
    data = DataContainer(datasets(), transforms=[normalize()])
    assert data.train[1]["x"].tolist() == [1]
    assert data.get_dataset("test")[0]["x"].tolist() == [(5000 - 1) / 2]


def test_own_transforms_come_before_the_shared_ones_and_the_inverse_undoes_both() -> None:
    data = DataContainer(datasets(), transforms=[normalize()], own_transforms={"train": [Scale()]})
    assert data.get_dataset("test")[0]["x"].tolist() == [2]  # 1000 … 3000 is the range of the scaled training set
    assert data.inverse("x", torch.tensor([[2.0]])).tolist() == [[5]]
    assert data.inverse("y", torch.tensor([[2.0]])).tolist() == [[2]]


def test_a_test_sets_own_transform_learns_from_the_training_set() -> None:
    data = DataContainer(datasets(), own_transforms={"test": [normalize()]})
    assert data.get_dataset("test")[0]["x"].tolist() == [(5000 - 1) / 2]
    assert data.train[0]["x"].tolist() == [1]


def test_statistics_of_a_saved_run_take_the_place_of_the_training_sets() -> None:
    saved = DataContainer(datasets(), transforms=[normalize()])
    assert saved.train[1]["x"].tolist() == [1]
    later = DataContainer({"test": datasets()["test"]}, transforms=[normalize()])
    later.load_state_dict(saved.state_dict())
    assert torch.equal(later.get_dataset("test")[1]["x"], saved.get_dataset("test")[1]["x"])
    assert later.inverse("x", torch.tensor([[1.0]])).tolist() == [[3]]


def test_loading_statistics_changes_data_sets_that_were_seen_already() -> None:
    data = DataContainer(datasets(), transforms=[normalize()])
    assert data.train[1]["x"].tolist() == [1]
    data.load_state_dict({"transforms/0/x/shift": torch.zeros(1), "transforms/0/x/scale": torch.ones(1)})
    assert data.train[1]["x"].tolist() == [3]


def test_a_transform_without_training_set_and_statistics_is_an_error() -> None:
    data = DataContainer({"test": datasets()["test"]}, transforms=[normalize()])
    with pytest.raises(DataError) as caught:
        data.get_dataset("test")
    assert "'normalize'" in str(caught.value)


def test_custom_collators_serve_training_and_evaluation() -> None:
    def doubled(samples: Any) -> dict[str, torch.Tensor]:
        return {"x": 2 * torch.stack([sample["x"] for sample in samples])}

    data = DataContainer(datasets(), collators={"train": doubled, "test": doubled})
    request = data.sampler_config("test", every_n_epochs=1)
    training, evaluation = data.build_loader([request], batch_size=2, end_update=1)
    assert sorted(training.batch["x"].flatten().tolist()) == [2, 6]
    assert evaluation.batch["x"].flatten().tolist() == [10000, 18000]


def test_order_depends_on_the_seed_and_on_nothing_before() -> None:
    held = {"train": InMemoryDataset({"x": torch.arange(64)})}

    def order(seed: int) -> list[int]:
        loader = DataContainer(held, seed=seed).build_loader(batch_size=64, end_update=1)
        return next(iter(loader)).batch["x"].tolist()

    first = order(1)
    torch.rand(3)
    assert order(1) == first
    assert order(2) != first


@pytest.mark.parametrize(
    ("asked", "device", "pinned"),
    [(None, "cpu", False), (None, "cuda", True), (False, "cuda", False), (True, "cpu", True)],
)
def test_memory_is_pinned_for_cuda_by_default(asked: bool | None, device: str, pinned: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    data = DataContainer(datasets(), pin_memory=asked)
    assert data.build_loader(batch_size=1, device=torch.device(device)).pin_memory is pinned


def test_an_unknown_start_method_is_reported_with_the_available_ones() -> None:
    with pytest.raises(DataError) as caught:
        DataContainer(datasets(), num_workers=1, start_method="thread")
    assert "start_method" in str(caught.value)
    assert "'thread'" in str(caught.value)


# Units


def units() -> DataContainer:
    numbers = torch.tensor([[1.0], [3.0]])
    samples = InMemoryDataset({"x": numbers, "u": numbers, "u_target": numbers, "y_target": numbers})
    transform = Normalize(NormalizeConfig(kind="normalize", properties=["x", "u", "y_target"], method="min-max"))
    return DataContainer({"train": samples}, transforms=[transform])


@pytest.mark.parametrize("name", ["y", "y_target", "x"])
def test_a_field_and_a_property_go_back_to_the_units_of_the_data(name: str) -> None:
    assert units().in_units(name, torch.tensor([[0.5]])).tolist() == [[2.0]]


@pytest.mark.parametrize(("name", "told"), [("yy", "expected one of x, u"), ("u", "ambiguous")])
def test_a_name_that_could_give_wrong_units_is_an_error(name: str, told: str) -> None:
    with pytest.raises(DataError) as caught:
        units().in_units(name, torch.tensor([[0.5]]))
    assert told in str(caught.value)


def test_other_samples_take_the_place_of_a_data_set_with_the_same_transforms() -> None:
    data = units()
    assert len(data.train) == 2
    other = data.over("train", InMemoryDataset({name: torch.tensor([[5.0]]) for name in ("x", "u", "y_target")}))
    assert other.train[0]["x"].tolist() == [2.0]
    assert len(data.train) == 2


def test_raw_properties_without_a_data_set_are_an_error_that_says_so() -> None:
    with pytest.raises(DataError) as caught:
        DataContainer({}).raw_properties()
    assert "no data sets" in caught.value.message


def test_the_inverse_of_fitted_transforms_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataContainer(datasets(), transforms=[normalize()])
    assert data.train[1]["x"].tolist() == [1]
    monkeypatch.setattr("threading.Thread.start", lambda thread: pytest.fail(f"started {thread.name}"))
    assert data.inverse("x", torch.tensor([[1.0]])).tolist() == [[3]]
