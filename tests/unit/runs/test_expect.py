import pytest

from noether.errors import ExpectationError
from noether.runs.outcome import broken_expectations, check_expectations
from noether.spec.model import Expectation

FINAL = {"loss/test/total": 0.3, "accuracy/test/label": 0.9, "data/train/samples": 48.0, "broken": float("nan")}
BEST = {"loss/test/total": 0.1, "accuracy/test/label": 0.95}


@pytest.mark.parametrize(
    ("key", "bounds", "sentence"),
    [
        ("accuracy/test/label", {"min": 0.96}, "accuracy/test/label = 0.9, expected at least 0.96"),
        ("loss/test/total", {"max": 0.2}, "loss/test/total = 0.3, expected at most 0.2"),
        (
            "loss/test/total",
            {"equals": 0.2, "tolerance": 0.05},
            "loss/test/total = 0.3, expected 0.2 within 0.05",
        ),
        ("best/loss/test/total", {"max": 0.05}, "the best loss/test/total = 0.1, expected at most 0.05"),
        (
            "best/accuracy/test/label",
            {"min": 0.99},
            "the best accuracy/test/label = 0.95, expected at least 0.99",
        ),
        ("broken", {"min": 0.0, "max": 1.0}, "broken = nan, expected at least 0 and at most 1"),
        (
            "best/data/train/samples",
            {"min": 1.0},
            "data/train/samples has no best value, as it was never finite or has no direction; expected at least 1",
        ),
        (
            "accuracy/test/labl",
            {"min": 0.5},
            "accuracy/test/labl was never logged, expected at least 0.5. Did you mean 'accuracy/test/label'?",
        ),
        (
            "best/accuracy/test/labl",
            {"min": 0.5},
            "accuracy/test/labl was never logged, expected at least 0.5. Did you mean 'accuracy/test/label'?",
        ),
    ],
)
def test_a_broken_expectation_names_value_and_bound(key, bounds, sentence):
    assert broken_expectations({key: Expectation(**bounds)}, FINAL, BEST) == [sentence]


@pytest.mark.parametrize(
    ("key", "bounds"),
    [
        ("accuracy/test/label", {"min": 0.9, "max": 0.9}),
        ("loss/test/total", {"equals": 0.25, "tolerance": 0.06}),
        ("best/loss/test/total", {"equals": 0.1}),
        ("best/accuracy/test/label", {"min": 0.95}),
    ],
)
def test_an_expectation_that_is_met_is_not_mentioned(key, bounds):
    check_expectations({key: Expectation(**bounds)}, FINAL, BEST)


def test_a_metric_whose_own_name_begins_with_best_is_meant_by_it():
    assert broken_expectations({"best/x": Expectation(max=1.0)}, {"best/x": 0.5, "x": 2.0}, {"x": 2.0}) == []


def test_all_broken_expectations_are_reported_at_once():
    expected = {"loss/test/total": Expectation(max=0.0), "accuracy/test/label": Expectation(min=1.0)}
    with pytest.raises(ExpectationError) as caught:
        check_expectations(expected, FINAL, BEST)
    assert all(key in str(caught.value) for key in expected)
