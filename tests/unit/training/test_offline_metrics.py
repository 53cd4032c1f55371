"""Metrics over batches equal those over the whole data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noether.errors import TrainingError
from noether.testing import make_callback, make_trainer
from noether.training.callbacks import METRICS, OfflineMetricsCallback


def direct_relative_l2(prediction: Tensor, target: Tensor) -> Tensor:
    return torch.stack([(p - t).norm() / t.norm() for p, t in zip(prediction, target, strict=True)]).mean()


REGRESSION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": lambda p, t: (p - t).abs().mean(),
    "rmse": lambda p, t: (p - t).square().mean().sqrt(),
    "r2": lambda p, t: 1 - (p - t).square().sum() / (t - t.mean()).square().sum(),
    "relative-l2": direct_relative_l2,
}
shapes = st.lists(st.integers(1, 3), max_size=2)


def batched(name: str, prediction: Tensor, target: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the metric as the callback has it, of the sums of each batch."""
    parts = [METRICS[name].sums(p, t) for p, t in zip(prediction.split(sizes), target.split(sizes), strict=True)]
    return METRICS[name].value({key: torch.stack([part[key] for part in parts]) for key in parts[0]})


@pytest.mark.parametrize("name", REGRESSION)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), shape=shapes, seed=st.integers(0, 99))
def test_metric_of_all_batches_is_that_of_the_data_set(
    name: str, sizes: list[int], shape: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples = max(sum(sizes), 2)
    sizes = [*sizes, samples - sum(sizes)] if sum(sizes) < samples else sizes
    target = 3 + torch.randn(samples, *shape, generator=generator)
    prediction = target + torch.randn(samples, *shape, generator=generator)
    expected = REGRESSION[name](prediction.double(), target.double())
    torch.testing.assert_close(batched(name, prediction, target, sizes), expected, rtol=1e-9, atol=1e-9)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 99))
def test_accuracy_is_the_share_of_hits_however_samples_are_batched(sizes: list[int], classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sum(sizes), classes, generator=generator)
    target = torch.randint(classes, (sum(sizes),), generator=generator)
    hits = sum(int(row.argmax()) == int(label) for row, label in zip(logits, target, strict=True))
    assert batched("accuracy", logits, target, sizes) == pytest.approx(hits / sum(sizes))


def test_accuracy_of_maps_counts_every_point() -> None:
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # one sample, two classes, two points
    assert batched("accuracy", logits, torch.tensor([[0, 0]]), [1]) == 0.5


@pytest.mark.parametrize("name", ["mae", "rmse", "relative-l2"])
def test_a_perfect_prediction_has_no_error(name: str) -> None:
    target = torch.tensor([[1.0], [2.0]])
    assert batched(name, target, target, [1, 1]) == 0
    assert batched("r2", target, target, [1, 1]) == 1


def test_predicting_the_mean_has_an_r2_of_zero() -> None:
    target = torch.tensor([1.0, 2.0, 6.0])
    assert batched("r2", torch.full((3,), 3.0), target, [2, 1]) == pytest.approx(0)


@given(st.floats(0.1, 1e6), st.integers(2, 30))
def test_r2_of_constant_targets_is_never_a_good_score(value: float, samples: int) -> None:
    target = torch.full((samples,), value, dtype=torch.float64)
    assert not batched("r2", target + 1, target, [samples]) > 0


def test_sums_of_many_float32_entries_do_not_lose_the_small_ones() -> None:
    prediction = torch.full((1, 2**20), 0.1)
    expected = prediction.double().abs().mean()
    torch.testing.assert_close(
        batched("mae", prediction, torch.zeros_like(prediction), [1]), expected, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("name", METRICS)
def test_shapes_that_only_broadcast_are_refused(name: str) -> None:
    prediction = torch.zeros(4, 3) if name == "accuracy" else torch.zeros(4, 1)
    target = torch.zeros(4, 1) if name == "accuracy" else torch.zeros(4)
    with pytest.raises(TrainingError) as caught:
        METRICS[name].sums(prediction, target)
    assert f"expected {tuple(target.shape)}" in caught.value.message


@pytest.mark.parametrize("outputs", [torch.zeros(2, 2), (torch.zeros(2, 2),)], ids=["a tensor", "a tuple"])
def test_outputs_without_names_are_refused_for_several_fields(outputs: object, tmp_path: Path) -> None:
    metrics = {"kind": "offline-metrics", "every_n_epochs": 1, "metrics": {"y": ["rmse"], "z": ["rmse"]}}
    callback = make_callback(metrics, make_trainer(tmp_path))
    assert isinstance(callback, OfflineMetricsCallback)
    with pytest.raises(TrainingError) as caught:
        callback._sums("y", ["rmse"], outputs, {"y_target": torch.zeros(2, 2)})
    assert type(outputs).__name__ in caught.value.message


@given(
    offset=st.sampled_from([0.0, 1e3, 1e7, -1e7]),
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    spread=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 99),
)
def test_r2_of_targets_far_from_zero_is_that_of_a_reference_in_float64(
    offset: float, sizes: list[int], spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    deviation = spread * torch.randn(sum(sizes), 2, generator=generator, dtype=torch.float64)
    error = 0.1 * spread * torch.randn(sum(sizes), 2, generator=generator, dtype=torch.float64)
    target = offset + deviation
    found = batched("r2", target + error, target, sizes)
    exact = np.asarray(target.tolist(), dtype=np.longdouble)
    squares = ((exact - exact.mean()) ** 2).sum()
    expected = 1 - ((np.asarray((target + error).tolist(), dtype=np.longdouble) - exact) ** 2).sum() / squares
    assert float(found) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", [*REGRESSION, "accuracy"])
def test_points_that_are_not_valid_do_not_count(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    prediction, target = torch.randn(2, 3, 2, generator=generator), torch.randn(2, 3, 2, generator=generator)
    if name == "accuracy":
        prediction, target = prediction.movedim(-1, 1), torch.tensor([[0, 1, 0], [1, 1, 0]])
    found = METRICS[name].sums(prediction, target, valid)
    spoilt = METRICS[name].sums(
        prediction, torch.where(valid.reshape(2, 3, *[1] * (target.ndim - 2)), target, 7), valid
    )
    assert found == spoilt
    if name == "mae":
        whole = (prediction - target).abs()[valid].double().mean()
        assert METRICS[name].value({key: value[None] for key, value in found.items()}) == pytest.approx(float(whole))


@pytest.mark.parametrize("name", REGRESSION)
def test_both_parts_of_complex_fields_count(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    target, error = (torch.randn(6, 3, dtype=torch.complex64, generator=generator) for _ in range(2))
    one, other = (torch.view_as_real(values.to(torch.complex128)) for values in (target + error, target))
    expected = {
        "mae": lambda: (one - other).norm(dim=-1).mean(),
        "rmse": lambda: (one - other).square().sum(-1).mean().sqrt(),
        "r2": lambda: 1 - (one - other).square().sum() / (other - other.mean((0, 1))).square().sum(),
        "relative-l2": lambda: direct_relative_l2(one.flatten(1), other.flatten(1)),
    }[name]()
    torch.testing.assert_close(batched(name, target + error, target, [4, 2]), expected, rtol=1e-6, atol=0)


def test_predictions_keep_the_digits_and_the_parts_that_they_have(tmp_path: Path) -> None:
    metrics = {"kind": "offline-metrics", "every_n_epochs": 1, "metrics": {"y": ["mae"]}}
    callback = make_callback(metrics, make_trainer(tmp_path))
    assert isinstance(callback, OfflineMetricsCallback)
    target = torch.ones(2, 2, dtype=torch.float64)
    (sums,) = callback._sums("y", ["mae"], {"y": target + 1e-9}, {"y_target": target}).values()
    assert float(METRICS["mae"].value(sums)) == pytest.approx(1e-9, rel=1e-6)
    (sums,) = callback._sums("y", ["mae"], {"y": target + 1j}, {"y_target": target + 0j}).values()
    assert float(METRICS["mae"].value(sums)) == pytest.approx(1.0)


def test_accuracy_of_complex_outputs_is_refused_and_names_the_field(tmp_path: Path) -> None:
    metrics = {"kind": "offline-metrics", "every_n_epochs": 1, "metrics": {"y": ["accuracy"]}}
    callback = make_callback(metrics, make_trainer(tmp_path))
    assert isinstance(callback, OfflineMetricsCallback)
    with pytest.raises(TrainingError) as caught:
        callback._sums("y", ["accuracy"], {"y": torch.ones(2, 3) + 1j}, {"y_target": torch.zeros(2)})
    assert "'y'" in caught.value.message
