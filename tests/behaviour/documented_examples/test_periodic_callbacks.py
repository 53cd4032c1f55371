"""The examples of periodic callbacks, in runs whose metrics are also computed in another way."""

import pytest
from safetensors.torch import load

CALLBACKS = "lab.documented.callbacks"


def values_of(lines, key):
    """Return the values of a metric by the update at which they were logged."""
    return {line["update"]: line["metrics"][key] for line in lines if key in line["metrics"]}


def test_the_custom_metric_is_logged_and_printed_at_its_interval(finish_with, metric_lines, final_weights):
    outcome = finish_with(
        {"kind": f"{CALLBACKS}.CustomMetricCallback", "every_n_epochs": 10}, **{"trainer.max_epochs": 20}
    )
    logged = values_of(metric_lines(outcome), "custom_metric")
    assert list(logged) == [60, 120]
    squares = sum(tensor.double().square().sum().item() for tensor in load(final_weights(outcome)).values())
    assert logged[120] == pytest.approx(squares, rel=1e-6)
    assert (outcome.run_dir / "log.txt").read_text().count("custom_metric: ") == 2


@pytest.mark.parametrize("interval", [{"every_n_updates": 4}, {"every_n_epochs": 1}, {"every_n_samples": 24}])
def test_the_running_average_is_the_mean_of_the_losses_since_the_last_time(finish_with, metric_lines, interval):
    every_update = {"kind": "online-loss", "every_n_updates": 1}
    lines = metric_lines(finish_with(every_update, {"kind": f"{CALLBACKS}.RunningAverageCallback", **interval}))
    losses = values_of(lines, "loss/online/total")
    averages = values_of(lines, "avg_loss")
    updates = {"every_n_updates": 4, "every_n_epochs": 6, "every_n_samples": 3}[next(iter(interval))]
    assert list(averages) == list(range(updates, 13, updates))
    for end, average in averages.items():
        since = [losses[update] for update in range(end - updates + 1, end + 1)]
        assert average == pytest.approx(sum(since) / updates, rel=1e-6)


def test_the_running_average_follows_the_last_accumulation_step(finish_with, metric_lines, tiny_spec):
    """`trainer.last_loss` is that of the last forward pass; the update it belongs to may consist of several."""
    tiny_spec["trainer"]["max_batch_size"] = 4
    average = {"kind": f"{CALLBACKS}.RunningAverageCallback", "every_n_updates": 1}
    lines = metric_lines(finish_with({"kind": f"{CALLBACKS}.StepLosses", "every_n_updates": 1}, average))
    assert values_of(lines, "avg_loss") == values_of(lines, "step_1")
    assert values_of(lines, "avg_loss") != values_of(lines, "step_0")
    assert len(values_of(lines, "avg_loss")) == 12


def test_one_call_of_the_log_writer_prints_and_the_other_does_not(finish_with):
    quiet, loud = (
        finish_with({"kind": f"{CALLBACKS}.{name}AccuracyCallback", "every_n_epochs": 1}) for name in ("Quiet", "Loud")
    )
    assert quiet.metrics["classification_accuracy"] == 0.2
    assert loud.metrics["classification_accuracy"] == 0.23623
    assert "classification_accuracy: " not in (quiet.run_dir / "log.txt").read_text()
    assert (loud.run_dir / "log.txt").read_text().count("classification_accuracy: 0.24\n") == 2


def test_a_callback_without_a_schedule_acts_before_and_after_training(finish_with, finish, final_weights):
    outcome = finish_with({"kind": f"{CALLBACKS}.WholeTrainingCallback"})
    now = load(final_weights(outcome))
    then = load(final_weights(finish({"trainer.start_at_epoch": 2})))
    squares = sum((now[name] - then[name]).double().square().sum().item() for name in now)
    assert outcome.metrics["distance"] == pytest.approx(squares**0.5, rel=1e-5)
