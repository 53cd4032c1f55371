import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.core.trackers.mlflow.config import Names, mlflow_name

# What callbacks write, and everything that MLflow refuses.
KEYS = st.one_of(
    st.text(alphabet="ab01=/._- :@[]~(\n", min_size=1, max_size=12),
    st.text(min_size=1, max_size=300),
)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("loss/online/total", "loss/online/total"),
        ("ema=0.9999/loss/test/total", "ema:0.9999/loss/test/total"),
        ("best=loss.test.total/accuracy", "best:loss.test.total/accuracy"),
        ("trainer.callbacks.0.kind", "trainer.callbacks.0.kind"),
    ],
)
def test_the_keys_of_the_framework_stay_readable_and_can_be_turned_back(key, name):
    assert mlflow_name(key) == name
    assert name.replace(":", "=") == key


def test_refused_characters_are_replaced_and_distinguished_by_a_digest():
    one, other = mlflow_name("acc@1"), mlflow_name("acc(1")
    assert one.startswith("acc_1.x")
    assert one != other


@given(KEYS)
def test_mlflow_takes_every_name(key):
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    name = mlflow_name(key)
    _validate_metric_name(name)
    _validate_param_name(name)
    assert len(name) <= 250


@given(st.lists(KEYS, unique=True, max_size=20))
def test_different_keys_have_different_names(keys):
    assert len({mlflow_name(key) for key in keys}) == len(keys)


def test_a_colon_of_its_own_does_not_meet_an_equals_sign():
    assert mlflow_name("a:b") != mlflow_name("a=b")


GROUPED = {
    "rmse/test/elevation": "Evaluation/rmse test elevation",
    "best=loss.test.total/accuracy": "Evaluation/best:loss.test.total accuracy",
    "loss/online/total": "loss/online/total",
    "optim/lr": "optim/lr",
    "profiling/data_time": "system/profiling/data_time",
}


def test_evaluation_metrics_come_first_and_timings_are_system_metrics():
    assert {key: Names().of(key) for key in GROUPED} == GROUPED
    shown = [name for name in GROUPED.values() if not name.startswith("system/")]
    assert [name.partition("/")[0] for name in sorted(shown)] == ["Evaluation", "Evaluation", "loss", "optim"]


def test_metrics_that_are_not_grouped_keep_their_keys():
    assert {Names(grouped=False).of(key) for key in GROUPED} == {mlflow_name(key) for key in GROUPED}


@given(st.lists(st.one_of(KEYS, st.sampled_from([*GROUPED, *GROUPED.values()])), unique=True, max_size=20))
def test_grouped_names_are_taken_and_differ(keys):
    from mlflow.utils.validation import _validate_metric_name

    names = [Names().of(key) for key in keys]
    for name in names:
        _validate_metric_name(name)
    assert len(set(names)) == len(keys)


@pytest.mark.parametrize("key", ["data/train/samples", "model/parameters", "model/trainable_parameters"])
def test_counts_are_parameters_unless_metrics_keep_their_keys(key):
    assert Names().is_parameter(key)
    assert not Names(grouped=False).is_parameter(key)
