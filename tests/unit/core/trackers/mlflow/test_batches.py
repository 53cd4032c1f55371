import json
import math

from hypothesis import given
from hypothesis import strategies as st

from noether.core.trackers.mlflow.requests import MAX_REQUEST_BYTES, in_requests, to_metrics, to_params
from noether.metrics.metrics_file import MetricRecord


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


def test_long_parameters_are_cut_to_what_mlflow_keeps_and_stay_different():
    one, other = to_params({"model.hidden": "x" * 7000, "model.other": "x" * 7001})
    assert len(one.value) == 6000
    assert "… sha256:" in one.value
    assert one.value != other.value


def test_requests_hold_everything_in_order():
    metrics, _ = to_metrics([MetricRecord(1, 0, 1, 0.0, {f"m{index}": float(index) for index in range(5)})])
    assert [[metric.value for metric in request] for request in in_requests(metrics, 2)] == [[0, 1], [2, 3], [4]]
    assert list(in_requests([], 2)) == []


@given(st.lists(st.tuples(st.text(max_size=250), st.text(max_size=30)), unique_by=lambda pair: pair[0], max_size=30))
def test_no_request_is_larger_than_mlflow_takes(pairs):  # H-6
    params = to_params({key: value * 300 for key, value in pairs})
    requests = list(in_requests(params, 100))
    assert [param for request in requests for param in request] == params
    for request in requests:
        assert len(json.dumps([dict(param) for param in request])) <= MAX_REQUEST_BYTES


PARAM_VALUES = st.text(max_size=50) | st.text(max_size=30).map(lambda text: text * 400) | st.just("None")
METRIC_VALUES = st.floats(allow_nan=True, allow_infinity=True)


@given(st.dictionaries(st.text(min_size=1, max_size=300), PARAM_VALUES, max_size=8))
def test_mlflow_takes_every_parameter(params):  # H-7
    from mlflow.utils.validation import _validate_param, _validate_param_keys_unique

    made = to_params(params)
    _validate_param_keys_unique(made)
    for param in made:
        kept = _validate_param(param.key, param.value)
        assert kept.value == param.value  # nothing is left for MLflow to cut
        assert "\0" not in param.value
        param.value.encode()  # a database can write it


@given(
    st.dictionaries(st.text(min_size=1, max_size=300), METRIC_VALUES, max_size=8),
    st.floats(min_value=-1e10, max_value=1e10),
)
def test_mlflow_takes_every_metric(values, when):  # H-7
    from mlflow.utils.validation import _validate_metric

    metrics, infinities = to_metrics([MetricRecord(3, 0, 1, when, values)])
    for metric in metrics:
        _validate_metric(metric.key, metric.value, metric.timestamp, metric.step)
    assert len(metrics) + infinities == len(values)
    assert len({metric.key for metric in metrics}) == len(metrics)
