import pytest

from noether.config.metric_facts import MetricPropertyProvider, UnknownDirectionError
from noether.errors import UsageError


@pytest.mark.parametrize("key", ["loss/test/total", "rmse/test/pressure", "relative-l2/test/cp", "error", "Val_MAE"])
def test_lower_is_better_for_losses_and_errors(key):
    assert MetricPropertyProvider().higher_is_better(key) is False


@pytest.mark.parametrize("key", ["accuracy/test/label", "r2/test/pressure", "mean_iou", "f1"])
def test_higher_is_better_for_scores(key):
    assert MetricPropertyProvider().higher_is_better(key) is True


def test_prefixes_of_nested_callbacks_say_nothing_about_the_metric():
    provider = MetricPropertyProvider()
    assert provider.higher_is_better("ema=0.999/best=accuracy.test.label/loss/test/total") is False
    assert provider.higher_is_better("ema=0.999/accuracy/test/label") is True


def test_the_source_of_an_at_best_metric_says_nothing_about_the_metric():
    assert MetricPropertyProvider().higher_is_better("accuracy/test/label/at_best/loss/val/total") is True


@pytest.mark.parametrize("key", ["optim/lr", "profiling/train_time", "profiling/error_count"])
def test_neutral_metrics_have_no_better(key):
    provider = MetricPropertyProvider()
    assert provider.direction(key) == "neutral"
    with pytest.raises(UnknownDirectionError) as caught:
        provider.higher_is_better(key)
    assert key in str(caught.value)


def test_an_unknown_key_says_what_to_set_and_is_a_key_error():
    with pytest.raises(KeyError) as caught:
        MetricPropertyProvider().higher_is_better("drag_count")
    assert "higher_is_better = true" in str(caught.value)
    assert "drag_count" in str(caught.value)


def test_patterns_that_disagree_leave_the_direction_open():
    assert MetricPropertyProvider().direction("r2_error") is None


def test_added_patterns_come_before_built_in_ones_and_later_before_earlier():
    provider = MetricPropertyProvider([("*lossless*", "higher")])
    assert provider.higher_is_better("lossless_ratio") is True
    provider.add("lossless_*", "lower")
    assert provider.higher_is_better("lossless_ratio") is False


def test_an_added_direction_has_to_be_one():
    with pytest.raises(UsageError) as caught:
        MetricPropertyProvider().add("*", "up")
    assert "'up'" in str(caught.value)
