import math

from noether.core.trackers.mlflow.batches import in_chunks, to_metrics, to_params
from noether.core.trackers.record import MetricRecord


def test_the_update_is_the_step_and_the_records_time_the_timestamp():
    metrics, left_out = to_metrics([MetricRecord(50, 1, 400, 1700000000.5, {"ema=0.9/loss": 0.25})])
    (metric,) = metrics
    assert (metric.key, metric.value, metric.step, metric.timestamp) == (
        "ema:0.9/loss",
        0.25,
        50,
        1700000000500,
    )
    assert left_out == 0


def test_nan_is_kept_and_infinities_are_left_out_and_counted():
    metrics, left_out = to_metrics([MetricRecord(1, 0, 1, 0.0, {"a": math.nan, "b": math.inf, "c": -math.inf})])
    assert [metric.key for metric in metrics] == ["a"]
    assert math.isnan(metrics[0].value)
    assert left_out == 2


def test_long_parameters_are_cut_to_what_mlflow_keeps():
    (param,) = to_params({"model.hidden": "x" * 7000})
    assert len(param.value) == 6000
    assert param.value.endswith("…")


def test_chunks_hold_everything_in_order():
    assert list(in_chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(in_chunks([], 2)) == []
