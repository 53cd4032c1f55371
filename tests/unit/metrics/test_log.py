import json
import logging

import numpy as np
import pytest
import torch

from noether.config.metric_facts import MetricPropertyProvider
from noether.errors import StorageError, TrainingError
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.metrics.log import LogWriter, MissingMetricError
from noether.metrics.metrics_file import MetricsFile


def counter_at(update):
    start = TrainingIteration(epoch=update // 10, update=update, sample=update * 4)
    return UpdateCounter(start, TrainingIteration(update=100), updates_per_epoch=10, effective_batch_size=4)


@pytest.fixture
def writer(tmp_path):
    opened = LogWriter(MetricsFile(tmp_path / "metrics.jsonl"), MetricPropertyProvider())
    yield opened
    opened.close()


def lines(writer):
    return [json.loads(line) for line in writer.metrics_file.path.read_text().splitlines()]


def nonscalars(writer):
    path = writer.metrics_file.path.with_name("nonscalars.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_metrics_of_a_round_are_one_line_with_its_position(writer):
    writer.add_scalar("loss", 0.5)
    writer.add_scalar(key="lr", value=1e-3)
    writer.flush(counter_at(12))
    (line,) = lines(writer)
    assert (line["update"], line["epoch"], line["sample"]) == (12, 1, 48)
    assert line["metrics"] == {"loss": 0.5, "lr": 1e-3}


def test_a_round_without_metrics_writes_nothing(writer):
    told = []
    writer.on_written.append(told.append)
    writer.flush(counter_at(1))
    assert not writer.metrics_file.path.exists()
    assert not told


@pytest.mark.parametrize(
    "value",
    [
        0.25,
        np.float32(0.25),
        np.array([0.25]),
        torch.tensor(0.25),
        torch.tensor([[0.25]]),
        torch.tensor(0.25, dtype=torch.bfloat16),
        torch.tensor(0.25, requires_grad=True),
    ],
)
def test_everything_that_is_one_number_is_a_scalar(writer, value):
    writer.add_scalar("x", value)
    assert writer.current("x") == 0.25


@pytest.mark.parametrize("value", [1, True, np.int64(1), torch.tensor(1), torch.tensor(True)])
def test_whole_numbers_and_booleans_become_floats(writer, value):
    writer.add_scalar("x", value)
    assert writer.current("x") == 1.0


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.ones(3), "(3,)"),
        (torch.tensor(1j), "complex"),
        (np.ones(2), "ndarray"),
        ([1.0], "list"),
        ("0.5", "str"),
        (None, "None"),
        (10**400, "int"),
        (np.timedelta64(3, "s"), "timedelta64"),
        (torch.empty((), device="meta"), "without data"),
        (torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged), "nested"),
    ],
)
def test_a_value_that_is_not_a_scalar_is_an_error_that_names_the_metric(writer, value, found):
    with pytest.raises(TrainingError) as caught:
        writer.add_scalar("my/metric", value)
    assert "'my/metric'" in str(caught.value)
    assert found in str(caught.value)


@pytest.mark.parametrize("key", [7, None, "", ("a",)])
def test_a_key_that_is_not_a_name_is_an_error(writer, key):
    for add in (writer.add_scalar, writer.add_nonscalar):
        with pytest.raises(TrainingError) as caught:
            add(key, 0.5)
        assert repr(key) in str(caught.value)


def test_the_last_value_of_a_key_in_a_round_wins(writer):
    writer.add_scalar("loss", 1.0)
    writer.add_scalar("loss", 2.0)
    writer.flush(counter_at(1))
    assert lines(writer)[0]["metrics"] == {"loss": 2.0}


def test_a_tensor_that_is_changed_in_place_later_keeps_its_logged_value(writer):
    total = torch.tensor(5.0)
    histogram = torch.tensor([1.0, 2.0])
    writer.add_scalar("total", total)
    writer.add_nonscalar("histogram", histogram)
    total.zero_()
    histogram.zero_()
    writer.flush(counter_at(1))
    assert lines(writer)[0]["metrics"] == {"total": 5.0}
    assert nonscalars(writer)[0]["value"] == [1.0, 2.0]


def test_metrics_of_the_round_can_be_read_by_key(writer):
    writer.add_scalar("loss/test/total", torch.tensor(0.5))
    assert writer.current("loss/test/total") == 0.5
    assert writer.keys() == ["loss/test/total"]
    assert writer.current_metrics() == {"loss/test/total": 0.5}


def test_a_missing_metric_is_a_key_error_that_lists_what_is_there(writer):
    writer.add_scalar("loss/test/total", 0.5)
    with pytest.raises(KeyError) as caught:
        writer.current("loss/tset/total")
    assert isinstance(caught.value, MissingMetricError)
    assert "Did you mean 'loss/test/total'?" in str(caught.value)


def test_a_metric_of_an_earlier_round_is_missing(writer):
    writer.add_scalar("loss", 0.5)
    writer.flush(counter_at(1))
    with pytest.raises(MissingMetricError):
        writer.current("loss")


def test_children_write_and_read_below_their_prefix(writer):
    writer.add_scalar("loss", 1.0)
    child = writer.below("ema=0.999/")
    with pytest.raises(MissingMetricError):
        child.current("loss")  # the live model's, not the averaged one's
    child.add_scalar("loss", 0.5)
    child.below("best=loss/").add_scalar("loss", 0.25)
    assert child.current("loss") == 0.5
    assert child.keys() == ["loss", "best=loss/loss"]
    assert writer.current("loss") == 1.0
    writer.flush(counter_at(1))
    assert lines(writer)[0]["metrics"] == {
        "loss": 1.0,
        "ema=0.999/loss": 0.5,
        "ema=0.999/best=loss/loss": 0.25,
    }


def test_a_view_belongs_to_the_round_of_its_writer(writer):
    child = writer.below("ema=0.9/")
    child.add_scalar("loss", 1.0)
    writer.flush(counter_at(1))
    child.add_scalar("loss", 2.0)
    assert writer.keys() == ["ema=0.9/loss"]
    assert child.keys() == ["loss"]


def test_a_logger_prints_the_formatted_value_at_the_boundary(writer, caplog):
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("some.callback")
    writer.add_scalar(key="accuracy", value=torch.tensor(0.23623), logger=logger, format_str=".2f")
    writer.add_scalar("quiet", 1.0)
    assert not caplog.messages
    writer.flush(counter_at(1))
    assert caplog.messages == ["accuracy: 0.24"]


def test_non_scalars_are_written_beside_the_metrics(writer):
    writer.add_nonscalar("confusion", {"labels": ["a", "b"], "counts": torch.tensor([[1, 2], [3, 4]])})
    writer.add_nonscalar("spread", np.array([0.5, np.inf]))
    writer.flush(counter_at(3))
    first, second = nonscalars(writer)
    assert first["key"] == "confusion"
    assert first["value"] == {"labels": ["a", "b"], "counts": [[1, 2], [3, 4]]}
    assert (first["update"], first["epoch"], first["sample"]) == (3, 0, 12)
    assert second["value"] == [0.5, "Infinity"]


@pytest.mark.parametrize(
    "value",
    [
        object(),
        1j,
        torch.tensor([1j]),
        torch.ones(2, device="meta"),
        torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged),
        np.array([1j]),
        np.array([object()]),
        np.array([np.datetime64("2026-11-28")]),
        np.timedelta64(3, "s"),
        b"bytes",
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_non_scalar_that_json_cannot_say_is_refused_where_it_is_added(writer, value):
    with pytest.raises(TrainingError) as caught:
        writer.add_nonscalar("model", {"it": value})
    assert "'model'" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (torch.eye(2).to_sparse(), [[1.0, 0.0], [0.0, 1.0]]),
        (np.array([0.5, np.nan], dtype=np.longdouble), [0.5, "NaN"]),
        (np.longdouble(0.5), 0.5),
        (np.array([0.5, None, "a"], dtype=object), [0.5, None, "a"]),
        (np.array(["a"]), ["a"]),
        (np.bool_(True), True),
    ],
    ids=["sparse", "long doubles", "a long double", "objects", "text", "a truth value"],
)
def test_an_array_of_any_type_that_json_can_say_is_written(writer, value, written):
    writer.add_nonscalar("x", value)
    writer.flush(counter_at(3))
    assert nonscalars(writer)[0]["value"] == written


def test_final_and_best_values_follow_the_lines(writer):
    for update, (loss, accuracy) in enumerate([(0.5, 0.1), (0.2, 0.9), (float("nan"), 0.8)]):
        writer.add_scalar("loss", loss)
        writer.add_scalar("accuracy", accuracy)
        writer.add_scalar("optim/lr", 1.0)
        writer.flush(counter_at(update))
    assert writer.final_metrics["accuracy"] == 0.8
    assert writer.best_metrics == {"loss": 0.2, "accuracy": 0.9}


def test_a_resume_cuts_the_files_and_reads_the_final_values_again(writer, tmp_path):
    for update in (1, 2):
        writer.add_scalar("loss", 1.0 / update)
        writer.add_nonscalar("bins", [update])
        writer.flush(counter_at(update))
        if update == 1:
            state = writer.state_dict()
    writer.close()
    resumed = LogWriter(MetricsFile(tmp_path / "metrics.jsonl"), MetricPropertyProvider())
    resumed.load_state_dict(state)
    assert resumed.final_metrics == {"loss": 1.0}
    assert [line["update"] for line in lines(resumed)] == [1]
    assert [line["value"] for line in nonscalars(resumed)] == [[1]]
    resumed.add_scalar("loss", 0.5)
    resumed.flush(counter_at(2))
    assert [line["update"] for line in lines(resumed)] == [1, 2]
    resumed.close()


def test_an_interrupted_round_can_be_forgotten(writer):
    writer.add_scalar("loss", 1.0)
    writer.discard()
    writer.flush(counter_at(1))
    assert not writer.metrics_file.path.exists()


def test_a_rank_without_a_file_keeps_the_round_and_the_final_values():
    writer = LogWriter(None)
    writer.add_scalar("loss", torch.tensor(0.5))
    assert writer.current("loss") == 0.5
    writer.flush(counter_at(1))
    assert writer.final_metrics == {"loss": 0.5}
    assert writer.state_dict() == {}
    writer.load_state_dict({"metrics": 10, "nonscalars": 0})
    assert writer.final_metrics == {}


def test_a_flush_that_is_tried_again_writes_each_line_once(writer, monkeypatch):
    writer.add_nonscalar("histogram", [1, 2])
    writer.add_nonscalar("table", {"a": 3})
    writer.add_scalar("loss", 0.5)
    refuse_once(monkeypatch, writer.metrics_file, "append")
    with pytest.raises(StorageError):
        writer.flush(counter_at(1))
    writer.flush(counter_at(1))
    assert [line["key"] for line in nonscalars(writer)] == ["histogram", "table"]
    assert [line["metrics"] for line in lines(writer)] == [{"loss": 0.5}]


def refuse_once(monkeypatch, owner, name):
    def refuse(*arguments):
        monkeypatch.undo()
        raise StorageError("the disk is full")

    monkeypatch.setattr(owner, name, refuse)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("told", ["on_metrics", "on_written"])
def test_a_line_is_written_once_if_those_who_follow_raise_an_error(writer, told, waits):
    def fail(*_):
        raise ZeroDivisionError

    getattr(writer, told).append(fail)
    for update in (1, 2):
        writer.add_scalar("loss", 0.5)
        writer.add_nonscalar("table", [update])
        with pytest.raises(ZeroDivisionError):
            writer.flush(counter_at(update), waits=waits)
            writer.late.settle()
    writer.flush(counter_at(3))
    assert [line["update"] for line in lines(writer)] == [1, 2]
    assert [line["update"] for line in nonscalars(writer)] == [1, 2]


def test_a_view_sees_changes_that_are_made_after_it(writer, tmp_path):
    view = writer.below("ema=0.9/")
    other = MetricsFile(tmp_path / "other.jsonl")
    writer.metrics_file = other
    writer.on_written = [print]
    assert view.metrics_file is other
    assert view.on_written is writer.on_written
    assert view.below("best=1/").prefix == "ema=0.9/best=1/"


def test_a_state_without_files_cuts_nothing(writer):
    """A rank that writes nothing saves an empty state; another one may read it."""
    writer.add_scalar("loss", 0.5)
    writer.flush(counter_at(1))
    writer.load_state_dict({})
    assert writer.final_metrics == {"loss": 0.5}
