"""A slow MLflow server has every logged value in the end."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from noether.core.trackers import TrackerFeed
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricsFile

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
ANSWER_S = 0.1


def closed(feed, status, error=None, deadline_s=30.0):
    """End the run; return the number of lines that were not delivered."""
    feed.end(status, error)
    return feed.wait_closed(deadline_s)


class SlowServer(ThreadingHTTPServer):
    """Speaks just enough of MLflow's REST interface, and keeps the points that it was sent."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        place = {"experiment_id": "1", "lifecycle_stage": "active"}
        experiment = {"name": "digits", "artifact_location": folder.as_uri(), **place}
        run = {"info": {"run_id": "r", "status": "RUNNING", "artifact_uri": folder.as_uri(), **place}, "data": {}}
        self.answers = {
            "experiments/get-by-name": {"experiment": experiment},
            "runs/create": {"run": run},
            "runs/get": {"run": run},
            "runs/update": {"run_info": run["info"]},
        }
        self.points = []
        self.may_answer = threading.Event()
        self.statuses = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sent = json.loads(body) if body else {}
        self.server.may_answer.wait()
        time.sleep(ANSWER_S)
        call = self.path.partition("/mlflow/")[2].partition("?")[0]
        if call == "runs/log-batch":
            self.server.points += [(point["step"], point["value"]) for point in sent.get("metrics", [])]
        if call == "runs/update":
            self.server.statuses.append(sent.get("status"))
        answer = json.dumps(self.server.answers.get(call, {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def slow_server(tmp_path):
    server = SlowServer(tmp_path)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.may_answer.set()
    server.shutdown()
    thread.join(5)
    server.server_close()


def test_nothing_is_lost_at_the_end_of_a_run_that_is_quicker_than_its_server(slow_server, make_tracker, make_run):
    run = make_run()
    feed = TrackerFeed(make_tracker(tracking_uri=slow_server.address), run.run_dir / "metrics.jsonl", run)
    feed.start()
    writer = LogWriter(MetricsFile(run.run_dir / "metrics.jsonl"))
    writer.on_written.append(feed.notify)
    counter = UpdateCounter(TrainingIteration(0, 0, 0), TrainingIteration(update=700), 100, 4)
    for update in range(1, 701):  # more than one delivery holds
        counter.update += 1
        writer.add_scalar("loss", 1.0 / update)
        writer.flush(counter)
    writer.close()
    assert slow_server.points == []
    slow_server.may_answer.set()
    assert closed(feed, "FINISHED") == 0
    assert slow_server.points == [(update, 1.0 / update) for update in range(1, 701)]
    assert slow_server.statuses[-1] == "FINISHED"
