"""Outages of a server during delivery: late start, absence, nonsense, refusals, rejected values."""

import time

import pytest

from noether.core.trackers import TrackerFeed
from noether.metrics.delivery import Delivery
from noether.metrics.feed import pause_s
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.tracker import TrackerError

TROUBLE = [429, 500, 502, 503, "html", "cut", "reset", "lost reply", "half closed"]
TROUBLE += ["empty", "empty done", "odd", "null", "list", "redirect", "wait"]


def closed(feed, status, error=None, deadline_s=30.0):
    """End the run; return the number of lines that were not delivered."""
    feed.end(status, error)
    return feed.wait_closed(deadline_s)


@pytest.fixture
def feed(fake_server, make_tracker, make_run):
    def make(run=None, **config):
        run = run or make_run()
        tracker = make_tracker(tracking_uri=fake_server.address, **config)
        fed = TrackerFeed(tracker, run.run_dir / "metrics.jsonl", run, interval_s=0.01)
        fed.start()
        return fed

    return make


def write(run, updates, keys=("loss",)):
    with (run.run_dir / "metrics.jsonl").open("ab") as file:
        for update in updates:
            file.write(MetricRecord(update, 0, update, float(update), dict.fromkeys(keys, 1.0 / update)).encode())


def until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def test_what_a_server_missed_in_the_middle_of_a_run_comes_in_order_when_it_is_back(
    feed, fake_server, make_run, caplog
):  # H-2
    run = make_run()
    fed = feed(run)
    assert fed.wait_open(20)
    write(run, range(1, 11))
    fed.notify()
    until(lambda: len(fake_server.run.points) == 10)
    fake_server.down()
    write(run, range(11, 21))
    fed.notify()
    until(lambda: caplog.messages)
    fake_server.up()
    write(run, range(21, 31))
    assert closed(fed, "FINISHED") == 0
    assert fake_server.run.curve("loss") == [(update, 1.0 / update) for update in range(1, 31)]
    assert fake_server.run.status == "FINISHED"
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_that_passes_is_tried_again(feed, fake_server, make_run, trouble, caplog):  # H-5
    run = make_run()
    fed = feed(run)
    assert fed.wait_open(20)
    fake_server.mode = trouble
    write(run, [1, 2, 3])
    fed.notify()
    until(lambda: caplog.messages)
    fake_server.mode = "ok"
    assert closed(fed, "FINISHED") == 0
    assert [step for step, _ in fake_server.run.curve("loss")] == [1, 2, 3]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_takes_the_credentials_away_is_left_alone(feed, fake_server, make_run, status, caplog):  # H-5
    run = make_run()
    fed = feed(run)
    assert fed.wait_open(20)
    fake_server.mode = status
    write(run, [1])
    fed.notify()
    until(lambda: caplog.messages)
    asked = len(fake_server.requests)
    write(run, [2])
    fed.notify()
    assert closed(fed, "FINISHED") == 2
    assert len(fake_server.requests) == asked
    first, last = caplog.messages
    assert "is not tried again" in first
    assert f"noether tracker sync {run.run_dir}" in last


def test_a_server_in_trouble_is_asked_a_few_times_a_minute_and_by_no_clock():  # H-5
    waited, tries = 0.0, 0
    while waited < 60:
        tries += 1
        waited += pause_s(tries)
    assert tries <= 10
    assert len({pause_s(3) for _ in range(20)}) > 1
    assert pause_s(10**6) <= 30


def test_an_outage_that_lasts_to_the_end_names_the_command_that_delivers_later(
    feed, fake_server, make_run, caplog
):  # H-3
    run = make_run()
    fed = feed(run)
    assert fed.wait_open(20)
    fake_server.down()
    write(run, range(1, 6))
    began = time.perf_counter()
    assert closed(fed, "FINISHED") == 5
    assert time.perf_counter() - began < 15
    assert f"noether tracker sync {run.run_dir}" in caplog.messages[-1]
    assert fake_server.run.status == "RUNNING"


def test_a_value_that_the_server_refuses_costs_no_other(feed, fake_server, make_run, caplog):  # H-7
    run = make_run()
    fake_server.refused_keys = ("odd",)
    fed = feed(run)
    write(run, range(1, 9))
    write(run, [9], keys=("odd", "even"))
    write(run, range(10, 12))
    assert closed(fed, "FINISHED") == 0
    assert [step for step, _ in fake_server.run.curve("loss")] == [*range(1, 9), 10, 11]
    assert fake_server.run.curve("even") == [(9, 1.0 / 9)]
    assert fake_server.run.tags["noether.refused_values_left_out"] == "1"
    assert "odd" in caplog.text


def test_a_server_that_refuses_every_value_is_given_up(feed, fake_server, make_run, caplog):  # H-7
    run = make_run()
    fake_server.refused_keys = ("loss",)
    fed = feed(run)
    write(run, range(1, 200))
    fed.notify()
    until(lambda: any("is not tried again" in message for message in caplog.messages))
    closed(fed, "FINISHED", deadline_s=5)
    assert len(fake_server.requests) < 100


class Meter:
    """A tracker's deliveries, measured."""

    def __init__(self):
        self.largest, self.values = 0, 0

    def count(self, records):
        size = sum(len(record.metrics) for record in records)
        self.largest, self.values = max(self.largest, size), self.values + size


def test_ten_thousand_keys_are_delivered_in_pieces(fake_server, make_tracker, make_run):  # H-6
    run, meter, sizes = make_run(), Meter(), []
    write(run, range(1, 6), keys=[f"layer{number}/norm" for number in range(10_000)])
    tracker = make_tracker(tracking_uri=fake_server.address)
    tracker.log_metrics, deliver = lambda records: (meter.count(records), deliver(records)), tracker.log_metrics
    delivery = Delivery(tracker, run.run_dir / "metrics.jsonl", run, run.run_dir / "spool/mlflow.json", sizes.append)
    delivery.open()
    log_batch = tracker.client.log_batch

    def measured(run_id, metrics, **more):
        sizes.append(len(metrics))
        log_batch(run_id, metrics, **more)

    tracker.client.log_batch = measured
    delivery.deliver_metrics()
    assert len(fake_server.run.points) == meter.values == 50_000
    assert meter.largest == 10_000
    assert max(sizes) == 1000


def test_the_run_that_was_created_by_a_process_that_died_is_found_again(fake_server, make_tracker, make_run):  # H-8
    run = make_run()
    fake_server.mode = lambda call: "lost reply" if call == "runs/create" else "ok"
    path = run.run_dir / "spool/mlflow.json"
    first = Delivery(make_tracker(tracking_uri=fake_server.address), run.run_dir / "metrics.jsonl", run, path, print)
    with pytest.raises(TrackerError):
        first.open()
    fake_server.mode = "ok"
    second = Delivery(make_tracker(tracking_uri=fake_server.address), run.run_dir / "metrics.jsonl", run, path, print)
    second.open()
    second.close("FINISHED", None)
    assert fake_server.run.status == "FINISHED"  # and it is the only one


def test_a_run_that_moves_to_another_store_is_there_whole(
    fake_server_class, fake_server, make_tracker, make_run, tmp_path
):
    run = make_run()  # H-8
    write(run, [1, 2])
    other = fake_server_class(tmp_path / "other")
    try:
        for server in (fake_server, other):
            tracker = make_tracker(tracking_uri=server.address)
            path = run.run_dir / "spool/mlflow.json"
            delivery = Delivery(tracker, run.run_dir / "metrics.jsonl", run, path, print)
            delivery.open()
            delivery.deliver_metrics()
        assert other.run.curve("loss") == fake_server.run.curve("loss") == [(1, 1.0), (2, 0.5)]
    finally:
        other.down()
