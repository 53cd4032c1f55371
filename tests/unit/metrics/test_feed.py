import json
import logging
import threading
import time

import pytest

from noether.checkpoint.commit import RunLostError
from noether.config.components import TrackerBaseConfig
from noether.core.trackers import (
    BaseTracker,
    NoopTracker,
    RunDescription,
    TrackerError,
    TrackerFeed,
    TrackerRefusedError,
    TrackerSettingError,
)
from noether.metrics.figures import content_of, encoded
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.results import ResultsFile


def closed(feed, status, error=None, deadline_s=30.0):
    """End the run; return the number of lines that were not delivered."""
    feed.end(status, error)
    return feed.wait_closed(deadline_s)


class RecordingTracker(BaseTracker):
    """Stores its records; `trouble` is called before each action and may raise or block."""

    def __init__(self, required=False, trouble=lambda what: None):
        super().__init__(TrackerBaseConfig(kind="recording", required=required))
        self.trouble = trouble
        self.opened_with, self.updates, self.artifacts, self.ended = [], [], [], None

    def open(self, run):
        self.trouble("open")
        self.opened_with.append(run)

    def log_metrics(self, records):
        self.trouble("log")
        self.updates += [record.update for record in records]

    def log_artifact(self, path, folder=""):
        self.artifacts.append((path.name, folder))

    def close(self, status, error):
        self.trouble("close")
        self.ended = (status, error)

    @property
    def reference(self):
        return {"id": "run-7"} if self.opened_with else {}


@pytest.fixture
def write(tmp_path):
    def append(*updates):
        with (tmp_path / "metrics.jsonl").open("ab") as file:
            for update in updates:
                file.write(MetricRecord(update, 0, update, 0.0, {"loss": 1.0}).encode())

    return append


@pytest.fixture
def draw(tmp_path):
    """Adds a table to the results of an update."""

    def add(update, key):
        file = ResultsFile(tmp_path)
        file.keep(MetricRecord(update, 0, update, 0.0), {key: content_of(encoded("table", key, {"update": [update]}))})
        file.close()

    return add


@pytest.fixture
def feed(tmp_path):
    def make(tracker):
        run = RunDescription(run_id="r", name="n", run_dir=tmp_path)
        made = TrackerFeed(tracker, tmp_path / "metrics.jsonl", run, interval_s=0.01)
        made.start()
        return made

    return make


def until(condition, timeout_s=5.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def fail_times(count, step):
    left = [count]

    def trouble(what):
        if what == step and left[0]:
            left[0] -= 1
            raise ConnectionError("refused")

    return trouble


def test_what_is_written_arrives_while_the_run_goes_on_and_the_end_is_reported(feed, write):
    tracker = RecordingTracker()
    fed = feed(tracker)
    assert fed.wait_open(5)
    write(1, 2)
    fed.notify()
    until(lambda: tracker.updates == [1, 2])
    write(3)
    assert closed(fed, "FINISHED") == 0  # the last line needs no notify
    assert tracker.updates == [1, 2, 3]
    assert tracker.ended == ("FINISHED", None)


def test_the_error_of_a_failed_run_is_passed_on(feed):
    tracker = RecordingTracker()
    closed(feed(tracker), "FAILED", "boom")
    assert tracker.ended == ("FAILED", "boom")


def test_an_outage_is_reported_once_and_nothing_is_lost(feed, write, caplog):
    caplog.set_level(logging.INFO)
    tracker = RecordingTracker(trouble=fail_times(1, "log"))
    fed = feed(tracker)
    write(1, 2, 3)
    fed.notify()
    until(lambda: tracker.updates == [1, 2, 3])
    closed(fed, "FINISHED")
    assert tracker.updates == [1, 2, 3]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refused" in warnings[0]
    assert "metrics.jsonl" in warnings[0]
    assert "tracker recording answers again" in caplog.messages


@pytest.mark.parametrize("is_lost", ["before", "while open"])
def test_a_feed_whose_run_is_lost_delivers_and_writes_nothing_more(tmp_path, write, is_lost):
    lost = threading.Event()

    def require_own():
        if lost.is_set():
            raise RunLostError("moved")

    tracker = RecordingTracker()
    run = RunDescription(run_id="r", name="n", run_dir=tmp_path)
    fed = TrackerFeed(tracker, tmp_path / "metrics.jsonl", run, interval_s=0.01, require_own=require_own)
    if is_lost == "before":
        lost.set()
    fed.start()
    if is_lost == "while open":
        assert fed.wait_open(5)
        lost.set()
    spool = [path.read_bytes() for path in sorted(tmp_path.glob("spool/*"))]
    write(1)
    fed.notify()
    assert closed(fed, "FINISHED") == 1
    assert (tracker.updates, tracker.ended) == ([], None)
    assert [path.read_bytes() for path in sorted(tmp_path.glob("spool/*"))] == spool


def test_a_feed_that_is_abandoned_ends_without_a_word(feed, write, caplog):
    tracker = RecordingTracker(trouble=fail_times(100, "open"))
    fed = feed(tracker)
    fed.wait_open(5)
    caplog.clear()
    fed.abandon()
    fed._thread.join(5)
    assert not fed._thread.is_alive()
    assert (caplog.messages, tracker.ended) == ([], None)


@pytest.mark.parametrize("late", [False, True])
def test_a_setting_that_the_user_has_to_change_ends_the_run(feed, late):
    is_time = threading.Event()

    def trouble(what):
        is_time.wait(5)
        raise TrackerSettingError("unknown MLFLOW_RUN_ID")

    fed = feed(RecordingTracker(trouble=trouble))
    if late:
        fed.wait_open(0)
    is_time.set()
    with pytest.raises(TrackerSettingError, match="MLFLOW_RUN_ID"):
        fed.wait_open(5)
    if late:
        with pytest.raises(TrackerError, match="MLFLOW_RUN_ID"):
            fed.notify()


def test_a_tracker_that_opens_late_gets_everything(feed, write, caplog):
    tracker = RecordingTracker(trouble=fail_times(1, "open"))
    fed = feed(tracker)
    assert fed.wait_open(5) is False
    write(1)
    closed(fed, "FINISHED")
    assert tracker.updates == [1]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_required_tracker_that_does_not_open_is_an_error_before_training(feed):
    fed = feed(RecordingTracker(required=True, trouble=fail_times(100, "open")))
    with pytest.raises(TrackerError) as caught:
        fed.wait_open(5)
    assert "required = false" in str(caught.value)
    closed(fed, "FAILED", deadline_s=5)


def test_a_tracker_that_refuses_is_not_asked_again(feed, write, caplog):
    asked = []

    def refuse(what):
        asked.append(what)
        raise TrackerRefusedError("401: who are you?")

    fed = feed(RecordingTracker(trouble=refuse))
    assert fed.wait_open(5) is False
    write(1, 2)
    fed.notify()
    assert closed(fed, "FINISHED") == 2
    assert asked == ["open"]
    first, last = caplog.messages
    assert "is not tried again" in first
    assert "2 metric lines" in last


def test_a_tracker_that_hangs_delays_nothing_and_the_end_comes_by_its_deadline(feed, write, caplog):
    release = threading.Event()
    fed = feed(RecordingTracker(trouble=lambda what: release.wait(20)))
    write(1)
    began = time.perf_counter()
    for _ in range(1000):
        fed.notify()
    assert time.perf_counter() - began < 0.1
    assert fed.wait_open(0.05) is False
    began = time.perf_counter()
    assert closed(fed, "KILLED", deadline_s=0.2) == 1
    assert time.perf_counter() - began < 2
    release.set()
    until(lambda: not any(thread.name == "tracker-recording" for thread in threading.enumerate()))


def test_a_later_attempt_continues_the_same_run_and_sends_nothing_twice(feed, write, tmp_path):
    first = RecordingTracker()
    write(1, 2)
    closed(feed(first), "KILLED")
    write(3)
    second = RecordingTracker()
    closed(feed(second), "FINISHED")
    assert first.opened_with[0].reference == {}
    assert second.opened_with[0].reference == {"id": "run-7"}
    assert second.updates == [3]
    assert json.loads((tmp_path / "spool" / "recording.json").read_text())["update"] == 3


def test_an_unreadable_spool_file_is_not_a_reason_to_fail(feed, write, tmp_path):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "recording.json").write_text("[]")
    write(1)
    tracker = RecordingTracker()
    assert closed(feed(tracker), "FINISHED") == 0
    assert tracker.updates == [1]


def test_results_are_handed_over_and_one_that_was_changed_is_named(feed, write, draw, tmp_path, caplog):
    draw(1, "gone")
    draw(2, "plot")
    (tmp_path / "results/gone/U000000000001.json").write_text("other")
    tracker = RecordingTracker()
    closed(feed(tracker), "FINISHED")
    assert tracker.artifacts == [("U000000000002.json", "results/plot")]
    assert "gone" in caplog.text


def test_the_noop_tracker_needs_no_thread(feed):
    threads = threading.active_count()
    fed = feed(NoopTracker())
    assert threading.active_count() == threads
    assert fed.wait_open(0)
    assert closed(fed, "FINISHED") == 0


def test_no_thread_is_left_behind(feed, write):
    before = threading.active_count()
    write(1)
    closed(feed(RecordingTracker()), "FINISHED")
    assert threading.active_count() == before


def test_results_that_wait_for_a_tracker_are_delivered_later(feed, draw):
    draw(1, "plot")
    closed(feed(RecordingTracker(trouble=fail_times(100, "open"))), "KILLED", deadline_s=5)
    later = RecordingTracker()
    closed(feed(later), "KILLED")
    assert later.artifacts == [("U000000000001.json", "results/plot")]


def test_results_that_a_resumed_run_makes_again_are_sent_once(feed, draw, tmp_path):
    draw(1, "plot")
    draw(3, "plot")
    first = RecordingTracker()
    closed(feed(first), "KILLED")
    lines = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_bytes(lines[0])  # a resume from update 2
    draw(3, "plot")
    draw(4, "plot")
    second = RecordingTracker()
    closed(feed(second), "FINISHED")
    assert [name for name, _ in first.artifacts + second.artifacts] == [f"U{update:012}.json" for update in (1, 3, 4)]


def test_a_result_that_the_tracker_did_not_take_comes_again(feed, draw):
    draw(1, "plot")
    draw(1, "table")
    tracker = RecordingTracker()
    take, failures = tracker.log_result, [TrackerError("not now")]

    def log_result(result, path):
        if result.key == "table" and failures:
            raise failures.pop()
        take(result, path)

    tracker.log_result = log_result
    closed(feed(tracker), "FINISHED")
    assert {folder for _, folder in tracker.artifacts} == {"results/plot", "results/table"}


def test_before_the_first_line_of_an_attempt_the_files_are_not_read(feed, write, draw):
    """A resume has not cut them yet."""
    write(1, 2, 3)
    draw(2, "plot")
    tracker = RecordingTracker()
    fed = feed(tracker)
    assert fed.wait_open(5)
    assert tracker.updates == tracker.artifacts == []
    fed.notify()
    until(lambda: tracker.artifacts)
    until(lambda: tracker.updates == [1, 2, 3])
    closed(fed, "FINISHED")


def test_a_required_tracker_that_refuses_later_is_an_error_at_the_next_line(feed, write):
    def refuse(what):
        if what == "log":
            raise TrackerRefusedError("403: not any more")

    fed = feed(RecordingTracker(required=True, trouble=refuse))
    assert fed.wait_open(5)
    write(1)
    fed.notify()
    until(lambda: not any(thread.name == "tracker-recording" for thread in threading.enumerate()))
    with pytest.raises(TrackerError) as caught:
        fed.notify()
    assert "403: not any more" in str(caught.value)
    assert closed(fed, "FAILED", deadline_s=1) == 1


def test_a_tracker_that_is_another_run_than_before_gets_everything(feed, write):
    class Elsewhere(RecordingTracker):
        @property
        def reference(self):
            return {"id": "run-8"} if self.opened_with else {}

    write(1, 2)
    closed(feed(RecordingTracker()), "KILLED")
    write(3)
    tracker = Elsewhere()
    closed(feed(tracker), "FINISHED")
    assert tracker.updates == [1, 2, 3]
