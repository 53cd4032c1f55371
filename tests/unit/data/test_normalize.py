"""Normalisation: statistics of the training set, and back to the units of the data."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.data.dataset import Dataset, InMemoryDataset
from noether.data.transforms import Normalize, NormalizeConfig, RunningStatistics
from noether.errors import DataError

finite = st.floats(-1e6, 1e6, width=32)
tables = st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=20).map(torch.tensor)
methods = st.sampled_from(["mean-std", "min-max"])
granularities = st.sampled_from(["component", "channel", "property"])


def fitted(values: torch.Tensor, method: str = "mean-std", per: str = "component") -> Normalize:
    transform = Normalize(NormalizeConfig(kind="normalize", properties=["x"], method=method, per=per))
    transform.fit(InMemoryDataset({"x": values, "other": values}))
    return transform


@given(values=tables, method=methods, per=granularities)
def test_inverse_gives_the_values_back(values: torch.Tensor, method: str, per: str) -> None:
    transform = fitted(values, method, per)
    back = transform.inverse("x", transform({"x": values})["x"])
    torch.testing.assert_close(
        back, values, rtol=1e-5, atol=1e-6 * max(1.0, values.abs().max().item()), check_dtype=False
    )


@given(values=tables, method=methods, per=granularities)
def test_a_batch_is_normalised_as_its_samples_are(values: torch.Tensor, method: str, per: str) -> None:
    transform = fitted(values, method, per)
    one_by_one = torch.stack([transform({"x": sample})["x"] for sample in values])
    assert torch.equal(transform({"x": values})["x"], one_by_one)


@given(values=tables, cut=st.integers(1, 19), component=st.sampled_from([-1, 0, None]))
def test_statistics_do_not_depend_on_how_the_data_is_batched(
    values: torch.Tensor, cut: int, component: int | None
) -> None:
    whole, parts = RunningStatistics(component), RunningStatistics(component)
    whole.add(values)
    for part in (values[:cut], values[cut:]):
        if len(part):
            parts.add(part)
    scale = max(1.0, values.abs().max().item())
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=1e-12 * scale)
    torch.testing.assert_close(parts.deviation, whole.deviation, rtol=1e-6, atol=1e-6 * scale)
    assert torch.equal(parts.constant, whole.constant)


def test_components_have_mean_zero_and_deviation_one() -> None:
    values = torch.tensor([[1.0, 100.0], [2.0, 300.0], [3.0, 500.0]])
    result = fitted(values)({"x": values})["x"]
    torch.testing.assert_close(result.mean(0), torch.zeros(2))
    torch.testing.assert_close(result.std(0, correction=0), torch.ones(2))


def test_min_max_puts_each_component_between_zero_and_one() -> None:
    values = torch.tensor([[1.0, 100.0], [2.0, 300.0], [3.0, 500.0]])
    assert fitted(values, "min-max")({"x": values})["x"].tolist() == [[0, 0], [0.5, 0.5], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_over_powers_of_ten_come_back_from_their_logarithm_each_as_exactly(dtype: torch.dtype) -> None:
    values = torch.logspace(-6, 6, 13, dtype=dtype)[:, None]
    transform = fitted(values, "log")
    result = transform({"x": values})["x"]
    torch.testing.assert_close(result.diff(dim=0), result[1:2].expand(12, 1) - result[:1], rtol=1e-4, atol=0)
    assert result.std(correction=0).item() == pytest.approx(1)
    torch.testing.assert_close(transform.inverse("x", result), values, rtol=1e-5, atol=0)


@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_a_number_without_a_logarithm_is_refused_before_training(wrong: float) -> None:
    with pytest.raises(DataError, match=r"found (0|-1) in the training set"):
        fitted(torch.tensor([[1.0], [wrong]]), "log")


def test_channels_of_an_image_have_statistics_of_their_own() -> None:
    images = torch.stack([torch.full((8, 4, 4), 2.0), torch.rand(8, 4, 4) * 50], dim=1)
    result = fitted(images, per="channel")({"x": images})["x"]
    assert result[:, 0].abs().max() == 0
    torch.testing.assert_close(result[:, 1].std(correction=0), torch.tensor(1.0))


def test_a_whole_property_keeps_the_proportions_of_its_components() -> None:
    values = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    assert fitted(values, "min-max", per="property")({"x": values})["x"].tolist() == [[0, 0.25], [0.5, 1]]


@pytest.mark.parametrize("method", ["mean-std", "min-max"])
def test_a_component_that_never_varies_is_only_shifted(method: str) -> None:
    values = torch.tensor([[0.1, 1.0]] * 7)
    transform = fitted(values, method)
    assert transform({"x": values})["x"].tolist() == [[0, 0]] * 7
    assert transform({"x": values + 1})["x"][0].tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("method", ["mean-std", "min-max"])
def test_a_spread_too_small_to_divide_by_counts_as_none(method: str) -> None:
    values = torch.tensor([[0.0], [1e-45]])
    assert fitted(values, method)({"x": values})["x"].isfinite().all()


def test_samples_of_different_size_can_be_normalised() -> None:
    class Clouds(Dataset):
        deterministic = True

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"x": torch.full((index + 1, 2), float(index))}

    transform = Normalize(NormalizeConfig(kind="normalize", properties=["x"]))
    transform.fit(Clouds())
    assert transform.state_dict()["x/shift"].tolist() == pytest.approx([8 / 6, 8 / 6])


def test_other_properties_and_the_sample_itself_stay_as_they_are() -> None:
    values = torch.rand(5, 2)
    sample = {"x": values[0], "other": values[1]}
    result = fitted(values)(sample)
    assert result["other"] is sample["other"]
    assert sample["x"] is not result["x"]
    assert torch.equal(sample["x"], values[0])


def test_half_precision_predictions_come_back_in_single_precision() -> None:
    values = torch.tensor([[1000.0], [1001.0], [1002.0]])
    back = fitted(values).inverse("x", torch.zeros(1, 1, dtype=torch.bfloat16))
    assert back.dtype == torch.float32
    assert back.item() == 1001


def test_integers_become_numbers_around_zero_and_come_back() -> None:
    values = torch.tensor([[16_777_217, 5], [16_777_219, 7]])
    transform = fitted(values)
    result = transform({"x": values})["x"]
    assert result.dtype == torch.float32
    assert result.tolist() == [[-1, -1], [1, 1]]
    assert torch.equal(transform.inverse("x", result), values.double())


@pytest.mark.parametrize(("offset", "unit"), [(1e9, 1.0), (-3e10, 1e-1), (0.0, 1e-42), (1e60, 1e50)])
def test_numbers_that_float32_cannot_tell_apart_are_normalised_in_float64(offset: float, unit: float) -> None:
    values = offset + unit * torch.arange(8, dtype=torch.float64).unsqueeze(1)
    transform = fitted(values)
    result = transform({"x": values})["x"]
    wanted = torch.arange(8, dtype=torch.float64).unsqueeze(1) - 3.5
    torch.testing.assert_close(result, wanted / wanted.std(correction=0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(transform.inverse("x", result.float()), values, rtol=0, atol=2e-3 * unit)


def test_a_component_that_varies_by_rounding_errors_only_is_constant() -> None:
    values = torch.tensor([[0.1 + 0.2], [0.3]], dtype=torch.float64)
    assert fitted(values)({"x": values})["x"].abs().max() < 1e-15


def test_state_of_one_instance_serves_another() -> None:
    values = torch.rand(6, 2)
    source = fitted(values)
    copy = Normalize(NormalizeConfig(kind="normalize", properties=["x"]))
    assert not copy.fitted
    copy.load_state_dict(source.state_dict())
    assert copy.fitted
    assert torch.equal(copy({"x": values})["x"], source({"x": values})["x"])


def test_state_that_lacks_a_property_is_refused() -> None:
    copy = Normalize(NormalizeConfig(kind="normalize", properties=["x", "y"]))
    with pytest.raises(DataError) as caught:
        copy.load_state_dict(fitted(torch.rand(3, 1)).state_dict())
    assert "y" in str(caught.value)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"X": torch.rand(3)}, "'x': unknown property, expected one of X. Did you mean 'X'"),
        ({"x": torch.tensor([True, False])}, "'x': found torch.bool"),
        ({"x": torch.tensor([1j, 2j])}, "'x': found torch.complex64"),
        ({"x": torch.tensor([2**60, 0])}, "'x': found integers beyond 2**53"),
        ({"x": torch.tensor([1.0, torch.nan])}, "'x': found NaN or infinity"),
        ({"x": torch.empty(0, 2)}, "'x': found no training samples"),
        ({"x": torch.tensor([1e300, 0.0], dtype=torch.float64)}, "'x': found numbers whose squares"),
    ],
)
def test_data_that_cannot_be_normalised_is_refused(properties: dict[str, torch.Tensor], message: str) -> None:
    transform = Normalize(NormalizeConfig(kind="normalize", properties=["x"]))
    with pytest.raises(DataError) as caught:
        transform.fit(InMemoryDataset(properties))
    assert message in str(caught.value)


def test_use_before_fit_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        Normalize(NormalizeConfig(kind="normalize", properties=["x"]))({"x": torch.ones(1)})
    assert "'x'" in str(caught.value)
