"""Wrong metrics and options are errors of the spec, at their places."""

from typing import Any

import pytest

import noether
from noether.errors import SpecError
from noether.testing import tiny_spec


def table(*metrics: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "torchmetrics", "every_n_epochs": 1, "dataset_key": "test", "metrics": {"y": list(metrics)}}


@pytest.mark.parametrize(
    ("metric", "place", "text"),
    [
        ({"name": "MeanSquareError"}, "0.name", "Did you mean 'MeanSquaredError'?"),
        ({"name": "Metric"}, "0.name", "expected a metric of torchmetrics"),
        ({"name": "MeanMetric"}, "0.name", "compares predictions with targets"),
        ({"name": "RetrievalMAP"}, "0.name", "RetrievalMAP takes preds, target, indexes"),
        ({"name": "BootStrapper"}, "0.name", "needs base_metric"),
        ({"name": "MeanSquaredError", "squarred": False}, "0.squarred", "'squared'? It takes squared, num_outputs"),
        ({"name": "MeanSquaredError", "squared": 1}, "0.squared", "expected true or false"),
        ({"name": "MulticlassF1Score"}, "0.num_classes", '"num_classes" is missing'),
        ({"name": "MulticlassF1Score", "num_classes": 10, "average": "all"}, "0.average", '"macro"'),
        ({"name": "MulticlassF1Score", "num_classes": 1}, "0]", "refuses its options"),
        ({"name": "F1Score", "task": "multiclass"}, "0]", "refuses its options"),
        ({"name": "MeanSquaredError", "key": "a/b"}, "0.key", "a/b"),
    ],
)  # fmt: skip
def test_a_wrong_metric_is_reported_where_it_stands(metric, place, text):
    with pytest.raises(SpecError) as caught:
        noether.load_spec(tiny_spec(trainer={"callbacks": [table(metric)]}))
    assert f"trainer.callbacks.0.metrics.y.{place}" in str(caught.value)
    assert text in str(caught.value)


def test_two_metrics_of_a_field_need_two_keys():
    twice = [{"name": "MeanSquaredError"}, {"name": "MeanSquaredError", "squared": False}]
    with pytest.raises(SpecError, match="two metrics of 'y' have the key 'mean-squared-error'"):
        noether.load_spec(tiny_spec(trainer={"callbacks": [table(*twice)]}))
    noether.load_spec(tiny_spec(trainer={"callbacks": [table(twice[0], {**twice[1], "key": "rmse"})]}))


def test_a_comparison_knows_the_direction_or_asks_for_it():
    def spec(name: str, key: str) -> dict[str, Any]:
        best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": f"{key}/test/y"}
        return tiny_spec(trainer={"callbacks": [table({"name": name}), best]})

    noether.load_spec(spec("ExplainedVariance", "explained-variance") | {"name": "known"})
    with pytest.raises(SpecError, match="no known direction"):
        noether.load_spec(spec("PearsonCorrCoef", "pearson-corr-coef"))
