"""The page of a run in MLflow: groups, parameters, description, data sets, sweeps; runs of earlier versions."""

import json
from dataclasses import replace

import pytest

from noether.core.trackers import TrackerFeed
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.tracker import DatasetFacts
from noether.runs.tracking.sync import compare

# MLflow's own models use what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

VALUES = {"data/train/samples": 64.0, "model/parameters": 10.0, "rmse/test/y": 0.5, "profiling/data_time": 0.1}
RECORDS = [MetricRecord(0, 0, 0, 1.0, VALUES), MetricRecord(5, 1, 40, 2.0, {"rmse/test/y": 0.25})]


def look(tracker):
    return tracker.client.get_run(tracker.mlflow_run_id)


@pytest.fixture
def opened(database, make_tracker, make_run):
    def open_(run=None, **config):
        tracker = make_tracker(**config)
        tracker.open(run or make_run())
        return tracker

    return open_


def test_counts_are_parameters_and_evaluations_a_group_of_their_own(opened):
    tracker = opened()
    tracker.log_metrics(RECORDS)
    data = look(tracker).data
    assert data.params["data/train/samples"] == "64"
    assert data.params["model/parameters"] == "10"
    assert set(data.metrics) == {"Evaluation/rmse test y", "system/profiling/data_time"}


def test_a_run_with_counts_as_parameters_verifies(opened, make_run):
    tracker = opened()
    path = make_run().run_dir / "metrics.jsonl"
    path.write_bytes(b"".join(record.encode() for record in RECORDS))
    tracker.log_metrics(RECORDS)
    found = compare(tracker, path)
    assert (found.points, found.problem) == (3, "")
    assert tracker.newest_update() == 5
    assert not [record for record in tracker.undelivered(RECORDS) if "rmse/test/y" in record.metrics]


def test_a_run_of_a_version_that_did_not_group_keeps_its_names(opened, make_run):
    old = opened(group_metrics=False)
    old.log_metrics(RECORDS[:1])
    old.close("KILLED", None)
    assert "noether.metric_names" not in look(old).data.tags
    new = opened(make_run(reference=old.reference, attempt=2))
    assert new.newest_update() == 0
    assert [record.update for record in new.undelivered(RECORDS)] == [5]
    new.log_metrics(RECORDS[1:])
    assert set(look(new).data.metrics) == set(VALUES)
    assert [point.step for point in new.client.get_metric_history(new.mlflow_run_id, "rmse/test/y")] == [0, 5]


def test_a_grouped_run_keeps_its_groups_whatever_the_spec_says_later(opened, make_run):
    first = opened()
    first.log_metrics(RECORDS[:1])
    first.close("KILLED", None)
    second = opened(make_run(reference=first.reference, attempt=2), group_metrics=False)
    second.log_metrics(RECORDS[1:])
    assert set(look(second).data.metrics) == {"Evaluation/rmse test y", "system/profiling/data_time"}


def test_parameters_stand_in_the_order_in_which_they_are_given(opened, make_run):
    tracker = opened(make_run(params={"z": "1", "model.hidden": "[64]", "a": "2"}))
    assert list(look(tracker).data.params) == ["z", "model.hidden", "a"]


def test_the_description_is_replaced_at_the_end_unless_a_user_has_changed_it(opened):
    tracker = opened(note="Wider *layers*.")
    assert look(tracker).data.tags["mlflow.note.content"] == "Wider *layers*.\n\nDigits, 3 epochs."
    tracker.describe("It **finished**.")
    assert look(tracker).data.tags["mlflow.note.content"] == "Wider *layers*.\n\nIt **finished**."
    tracker.client.set_tag(tracker.mlflow_run_id, "mlflow.note.content", "Do not use.")
    tracker.describe("It finished again.")
    assert look(tracker).data.tags["mlflow.note.content"] == "Do not use."


def test_a_long_description_is_cut_at_a_line(opened):
    tracker = opened()
    tracker.describe("\n".join(["a line of the table"] * 1000))
    note = look(tracker).data.tags["mlflow.note.content"]
    assert len(note) <= 5000
    assert set(note.splitlines()) == {"a line of the table", "…"}
    tracker.describe("short")  # it is still ours
    assert look(tracker).data.tags["mlflow.note.content"] == "short"


def facts(key, **fields):
    properties = {"image": ((1, 8, 8), "float32")}
    return DatasetFacts(
        key, "digits", f"digest-{key}", 64, '{"kind": "digits"}', **{"properties": properties, **fields}
    )


def test_data_sets_are_logged_once_with_digest_schema_and_part(opened, make_run):
    run = make_run(datasets=(facts("train"), facts("test")))
    first = opened(run)
    first.close("KILLED", None)
    second = opened(replace(run, reference=first.reference, attempt=2))
    inputs = look(second).inputs.dataset_inputs
    assert {(one.dataset.name, one.dataset.digest, one.tags[0].value) for one in inputs} == {
        ("digits train", "digest-train", "train"),
        ("digits test", "digest-test", "eval"),
    }
    features = json.loads(json.loads(inputs[0].dataset.schema)["mlflow_tensorspec"]["features"])
    assert features[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 1, 8, 8]}


def test_a_data_set_with_a_thousand_properties_is_logged(opened, make_run):
    many = {f"a_property_with_a_name_{index}": ((3, 3), "float32") for index in range(1000)}
    (one,) = look(opened(make_run(datasets=(facts("train", properties=many),)))).inputs.dataset_inputs
    assert len(json.loads(json.loads(one.dataset.schema)["mlflow_tensorspec"]["features"])) >= 250


def test_tags_of_the_spec_are_tags_of_the_run(opened):
    assert look(opened(tags={"team": "wings"})).data.tags["team"] == "wings"


@pytest.mark.parametrize("name", ["mlflow.user", "noether.run_id", "a=b", "/a", ""])
def test_tags_that_are_taken_or_that_mlflow_refuses_are_refused(make_tracker, name):
    with pytest.raises(ValueError, match="tags"):
        make_tracker(tags={name: "x"})


def test_a_name_to_register_needs_a_model(make_tracker):
    with pytest.raises(ValueError, match="log_model"):
        make_tracker(register_as="wings")


def test_the_trials_of_a_sweep_have_one_parent(opened, make_run):
    trials = [opened(make_run(f"trial-{n}"), tags={"noether.sweep": "Ada's widths"}) for n in range(3)]
    for trial in trials:
        trial.close("FINISHED", None)
    (parent,) = {look(trial).data.tags["mlflow.parentRunId"] for trial in trials}
    assert trials[0].client.get_run(parent).info.run_name == "Ada's widths"
    assert trials[0].client.get_run(parent).info.status == "FINISHED"


def test_trials_that_made_two_parents_at_the_same_moment_settle_on_one(opened, make_run, monkeypatch):
    from noether.core.trackers.mlflow import page

    with monkeypatch.context() as blind:
        blind.setattr(page, "_parents", lambda *_: [])  # neither sees the parent that the other has made
        trials = [opened(make_run(f"trial-{n}"), tags={"noether.sweep": "widths"}) for n in range(2)]
    assert len({look(trial).data.tags["mlflow.parentRunId"] for trial in trials}) == 2
    for trial in trials:
        trial.close("FINISHED", None)
    (parent,) = {look(trial).data.tags["mlflow.parentRunId"] for trial in trials}
    runs = trials[0].client.search_runs([trials[0].experiment_id])
    assert {run.info.run_id for run in runs} == {parent, *(trial.mlflow_run_id for trial in trials)}


def test_an_outage_at_the_description_is_tried_again(opened, make_run, make_tracker, monkeypatch):
    run = replace(make_run(), summarise=lambda status: f"It is {status}.")
    tracker = make_tracker()
    feed = TrackerFeed(tracker, run.run_dir / "metrics.jsonl", run, interval_s=0.01)
    tries = []
    whole = type(tracker).describe

    def describe(self, text):
        tries.append(text)
        if len(tries) == 1:
            raise ConnectionError("down")
        whole(self, text)

    monkeypatch.setattr(type(tracker), "describe", describe)
    feed.start()
    assert feed.wait_open(60)
    feed.end("FINISHED")
    assert feed.wait_closed(60) == 0
    assert look(tracker).data.tags["mlflow.note.content"] == "It is FINISHED."
    assert len(tries) == 2
