"""An MLflow server that is down, hangs, refuses or breaks off does not disturb the run."""

import socket
import threading
import time

import pytest

from noether.core.trackers import TrackerFeed
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricsFile

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ANSWERS = {
    "hangs": None,
    "breaks off": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
    "answers in HTML": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
    "is overloaded": b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "has an error": b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "wants a password": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}


def closed(feed, status, error=None, deadline_s=30.0):
    """End the run; return the number of lines that were not delivered."""
    feed.end(status, error)
    return feed.wait_closed(deadline_s)


class BadServer:
    """Accepts connections on the loopback and gives each the same answer, or none."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open = []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.requests += 1
            if self.answer is None:
                self.open.append(connection)
                continue
            with connection:
                connection.recv(65536)
                connection.sendall(self.answer)

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)
        for connection in self.open:
            connection.close()


@pytest.fixture
def bad_server(request):
    server = BadServer(ANSWERS[request.param])
    yield server
    server.stop()


def train(run, feed, updates=200):
    """Log like a run does and return the longest time that one boundary took."""
    writer = LogWriter(MetricsFile(run.run_dir / "metrics.jsonl"))
    writer.on_written.append(feed.notify)
    counter = UpdateCounter(TrainingIteration(0, 0, 0), TrainingIteration(update=updates), 10, 4)
    longest = 0.0
    for _ in range(updates):
        counter.update += 1
        began = time.perf_counter()
        writer.add_scalar("loss", 0.5)
        writer.flush(counter)
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.001)
    writer.close()
    return longest


@pytest.mark.parametrize("bad_server", list(ANSWERS), indirect=True)
def test_training_is_not_delayed_and_the_end_comes_by_its_deadline(bad_server, make_tracker, make_run, caplog):
    import mlflow  # noqa: F401  # its import is not what is measured here

    run = make_run()
    tracker = make_tracker(tracking_uri=bad_server.address, request_timeout_s=5)
    feed = TrackerFeed(tracker, run.run_dir / "metrics.jsonl", run, interval_s=0.05)
    feed.start()
    assert feed.wait_open(0.2) is False
    # Whoever waited for the server would wait for 5 s; a busy machine does not make an update last for 3.
    assert train(run, feed) < 3
    began = time.perf_counter()
    assert closed(feed, "FINISHED", deadline_s=0.3) == 200
    assert time.perf_counter() - began < 3
    told, lost = caplog.messages[0], caplog.messages[-1]
    assert "Training is not affected" in told
    assert "200 metric lines" in lost
    assert len(caplog.messages) == 2
    wait_for_the_thread()


@pytest.mark.parametrize("bad_server", ["wants a password"], indirect=True)
def test_a_server_that_wants_a_password_is_asked_once(bad_server, make_tracker, make_run):
    run = make_run()
    tracker = make_tracker(tracking_uri=bad_server.address)
    feed = TrackerFeed(tracker, run.run_dir / "metrics.jsonl", run, interval_s=0.05)
    feed.start()
    assert feed.wait_open(20) is False
    closed(feed, "FINISHED", deadline_s=5)
    assert bad_server.requests == 1


def test_a_server_that_does_not_listen_is_reported_at_once(make_tracker, make_run, caplog):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    run = make_run()
    feed = TrackerFeed(make_tracker(tracking_uri=address), run.run_dir / "metrics.jsonl", run)
    feed.start()
    began = time.perf_counter()
    assert feed.wait_open(30) is False
    assert time.perf_counter() - began < 15
    assert "refused" in caplog.messages[0]
    assert address in caplog.messages[0]
    closed(feed, "FINISHED", deadline_s=10)
    wait_for_the_thread()


def wait_for_the_thread():
    end = time.monotonic() + 10
    while any(thread.name == "tracker-mlflow" for thread in threading.enumerate()):
        assert time.monotonic() < end, "the feed's thread did not end"
        time.sleep(0.02)
