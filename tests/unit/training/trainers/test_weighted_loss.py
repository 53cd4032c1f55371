"""One loss function over all fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from noether.data.container import DataContainer
from noether.data.dataset import Dataset, InMemoryDataset
from noether.errors import TrainingError
from noether.testing import make_trainer
from noether.training.trainers.types import TrainerResult
from noether.training.trainers.weighted_loss import WeightedLossTrainer

OUTPUTS = {"p": torch.tensor([1.0, 2.0]), "v": torch.tensor([[0.5], [3.0]])}
TARGETS = {"p_target": torch.tensor([0.0, 0.0]), "v_target": torch.tensor([[1.0], [1.0]])}


def trainer(folder: Path, **settings: Any) -> WeightedLossTrainer:
    defaults = {"field_weights": {"p": 1.0, "v": 0.25}, "target_properties": list(TARGETS)}
    made = make_trainer(folder, **{**defaults, **settings})
    assert isinstance(made, WeightedLossTrainer)
    return made


def test_each_field_is_compared_with_its_target_and_weighted(tmp_path: Path) -> None:
    losses = trainer(tmp_path).loss_compute(OUTPUTS, TARGETS)
    assert losses == {
        "p_loss": F.mse_loss(OUTPUTS["p"], TARGETS["p_target"]),
        "v_loss": 0.25 * F.mse_loss(OUTPUTS["v"], TARGETS["v_target"]),
    }


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [
        ("l1", F.l1_loss),
        ({"kind": "huber", "delta": 0.1}, lambda input, target: F.huber_loss(input, target, delta=0.1)),
        ("torch.nn.functional.smooth_l1_loss", F.smooth_l1_loss),
    ],
    ids=["short name", "table with an option", "dotted path"],
)
def test_any_loss_of_torch_can_be_named(loss_fn: Any, expected: Any, tmp_path: Path) -> None:
    found = trainer(tmp_path, loss_fn=loss_fn).loss_compute(OUTPUTS, TARGETS)["p_loss"]
    assert found == expected(input=OUTPUTS["p"], target=TARGETS["p_target"])


def test_a_bare_tensor_stands_for_the_only_field(tmp_path: Path) -> None:
    only = trainer(tmp_path, field_weights={"p": 2.0})
    assert only.loss_compute(OUTPUTS["p"], TARGETS)["p_loss"] == 5.0  # type: ignore[arg-type]  # a bare tensor


@pytest.mark.parametrize(
    ("outputs", "targets", "missing"),
    [
        ({"p": OUTPUTS["p"]}, TARGETS, "found outputs ['p'] and targets ['p_target', 'v_target'], expected 'v'"),
        (OUTPUTS, {"p_target": TARGETS["p_target"]}, "expected 'v_target'"),
        (OUTPUTS["p"], TARGETS, "found outputs one tensor and targets ['p_target', 'v_target'], expected 'p'"),
    ],
    ids=["no output", "no target", "one tensor for two fields"],
)
def test_a_field_without_output_or_target_is_refused_with_what_is_there(
    outputs: Any, targets: Any, missing: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as caught:
        trainer(tmp_path).loss_compute(outputs, targets)
    assert missing in caught.value.message


def test_without_fields_there_is_nothing_to_train(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        trainer(tmp_path, field_weights={})
    assert "field_weights" in str(caught.value)


def test_a_batch_that_lacks_a_property_is_refused_with_those_it_has(tmp_path: Path) -> None:
    made = make_trainer(tmp_path)
    with pytest.raises(TrainingError) as caught:
        made.train_step({"x": torch.zeros(2, 3)}, torch.nn.Identity())
    assert "found x, expected 'y_target'" in str(caught.value)


def close(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (input - target).square().mean()


def of_classes(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(input, target)


def pairwise(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (input - target).square().mean()


pairwise.different_shapes = True  # type: ignore[attr-defined]  # the declaration of a loss


def of_one_field(folder: Path, loss_fn: Any) -> WeightedLossTrainer:
    made = trainer(folder, field_weights={"p": 1.0}, target_properties=["p_target"])
    made.loss_fn = made._own_loss = loss_fn
    return made


@pytest.mark.parametrize("loss_fn", [close, F.mse_loss, F.hinge_embedding_loss, F.poisson_nll_loss])
@pytest.mark.parametrize(("output", "target"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 1), (4, 3)), ((1, 3), (4, 3))])
def test_shapes_that_broadcast_are_refused_by_field(
    loss_fn: Any, output: tuple[int, ...], target: tuple[int, ...], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as caught:
        of_one_field(tmp_path, loss_fn).loss_compute({"p": torch.zeros(output)}, {"p_target": torch.zeros(target)})
    assert "output 'p'" in caught.value.message
    assert str(target) in caught.value.message


@pytest.mark.parametrize(
    ("loss_fn", "output", "target"),
    [
        (of_classes, torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64)),
        (F.cross_entropy, torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64)),
        (F.cross_entropy, torch.zeros(2, 5, 3), torch.zeros(2, 3, dtype=torch.int64)),
        (pairwise, torch.zeros(4, 1), torch.zeros(4)),
    ],
    ids=["own classes", "classes", "classes of points", "declared"],
)
def test_a_loss_of_other_shapes_is_taken(
    loss_fn: Any, output: torch.Tensor, target: torch.Tensor, tmp_path: Path
) -> None:
    losses = of_one_field(tmp_path, loss_fn).loss_compute({"p": output}, {"p_target": target})
    assert set(losses) == {"p_loss"}


def test_an_output_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        trainer(tmp_path).loss_compute({**OUTPUTS, "p": None}, TARGETS)
    assert "output 'p': found NoneType" in caught.value.message


PADDED = {"p_target": torch.tensor([[1.0, 2.0], [3.0, 9.0]]), "mask": torch.tensor([[True, True], [True, False]])}


def masked(folder: Path, loss_fn: Any, **settings: Any) -> WeightedLossTrainer:
    made = trainer(folder, field_weights={"p": 1.0}, target_properties=["p_target", "mask"], **settings)
    made.loss_fn = made._own_loss = loss_fn
    return made


def test_padding_does_not_count(tmp_path: Path) -> None:
    loss = masked(tmp_path, F.mse_loss).loss_compute({"p": torch.zeros(2, 2)}, PADDED)["p_loss"]
    assert (loss.loss, loss.count) == (pytest.approx((1 + 4 + 9) / 3), 3)


def test_a_loss_that_does_not_know_the_mask_is_refused_and_one_that_does_gets_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        masked(tmp_path, close).loss_compute({"p": torch.zeros(2, 2)}, PADDED)
    assert "close of 'p'" in caught.value.message

    def knows(input: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (input - target).abs()[mask].sum()

    assert masked(tmp_path, knows).loss_compute({"p": torch.zeros(2, 2)}, PADDED)["p_loss"] == 6


def test_a_mask_that_is_not_listed_as_a_target_is_a_property_like_others(tmp_path: Path) -> None:
    made = of_one_field(tmp_path, F.mse_loss)
    assert made.train_step({"x": torch.zeros(2, 2), **PADDED}, lambda x: x).count is None


@pytest.mark.parametrize(("labels", "counts"), [([0, 1, 2], None), ([0, -100, 2], {"p_loss": 1})])
def test_ignored_targets_are_counted_if_a_data_set_has_any(
    labels: list[int], counts: dict[str, int] | None, tmp_path: Path
) -> None:
    sets = {
        "train": InMemoryDataset({"p_target": torch.tensor([0, 1] * 12)}),
        "test": InMemoryDataset({"p_target": torch.tensor(labels)}),
        "unlabelled": InMemoryDataset({"x": torch.zeros(3)}),
    }
    settings = {"field_weights": {"p": 1.0}, "target_properties": ["p_target"], "loss_fn": "cross-entropy"}
    made = trainer(tmp_path, data=DataContainer(sets), **settings)
    losses = made.loss_compute({"p": torch.zeros(2, 3)}, {"p_target": torch.tensor([0, -100])})
    assert TrainerResult.of(losses).count == counts


def test_targets_that_are_loaded_one_by_one_may_be_ignored(tmp_path: Path) -> None:
    class Lazy(Dataset):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            raise AssertionError("nothing is loaded to decide it")

    settings = {"field_weights": {"p": 1.0}, "target_properties": ["p_target"], "loss_fn": "nll"}
    made = trainer(tmp_path, data=DataContainer({"train": Lazy()}), **settings)
    losses = made.loss_compute({"p": torch.zeros(2, 3)}, {"p_target": torch.tensor([0, 1])})
    assert TrainerResult.of(losses).count == {"p_loss": 2}
