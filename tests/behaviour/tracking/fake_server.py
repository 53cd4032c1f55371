"""An MLflow server on the loopback that stores its requests and misbehaves on demand."""

import copy
import json
import re
import socket
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from noether.core.trackers.mlflow.config import Names

SLOW_S = 5.0
TOO_MANY = 2
NOT_MLFLOW = {"empty": b"", "odd": b'{"status": "ok"}', "null": b"null", "list": b"[]"}
HTML = b"<html><body>please sign in</body></html>"


class FakeServer:
    """Speaks as much of MLflow's REST interface as a run needs.

    `mode` decides about every request, or, where it is callable, is asked about each with the call's name:
    `ok`; `hang` (no answer); `slow`; a number (an HTTP status); `html`; `cut` (in the middle of the answer); `reset`
    (before anything is done); `lost reply` (everything is done, and nobody hears of it); `half closed` (as well, with
    an orderly end); a content that is not MLflow's with status 200, before (`empty`, `odd`, `null`, `list`) or after
    (`empty done`) anything is done; `forget` (points are taken and dropped); `twice` (a proxy repeats the request);
    `wait` (429 with Retry-After); `redirect` to a page in HTML; `too large` (413 above two values). `down()` and
    `up()` close and open the port itself; `back_up()` keeps what is stored, and `restore()` returns to it.
    """

    def __init__(self, folder):
        self.folder = folder
        self.mode = "ok"
        self.requests = []
        self.credentials = []
        self.runs = {}
        self.refused_keys = ()
        self.after = lambda call: None  # called when a request has been handled, before the answer
        self.backup = {}
        self.experiments = {"1": "tiny"}
        self.created = []
        self.lock = threading.RLock()
        self.released = threading.Event()
        self.http = self.thread = None
        self.port = 0
        self.up()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def up(self):
        self.released.clear()
        self.http = _Http(("127.0.0.1", self.port), _Handler)
        self.http.fake = self
        self.port = self.http.server_port
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def down(self):
        if self.http is not None:
            self.released.set()
            self.http.shutdown()
            self.thread.join(5)
            self.http.server_close()
            self.http = None

    def back_up(self):
        with self.lock:
            self.backup = copy.deepcopy(self.runs)

    def restore(self):
        with self.lock:
            self.runs = copy.deepcopy(self.backup)

    @property
    def run(self):
        """The only run that it has been sent."""
        (run,) = self.runs.values()
        return run

    def act(self, call, sent):
        """Handle a request; return the status and the answer."""
        run = self.runs.get(sent.get("run_id"))
        if call.startswith("experiments/"):
            return self.act_on_experiment(call, sent)
        if call == "runs/create":
            run = FakeRun(uuid.uuid4().hex, sent)  # MLflow's client keeps places by id
            self.runs[run.id] = run
            return 200, {"run": run.shown(self.folder)}
        if call == "runs/search":
            wanted = re.search(r"= '(.*)'", sent["filter"])[1]
            found = [run for run in self.runs.values() if wanted in run.tags.values()]
            return 200, {"runs": [run.shown(self.folder) for run in found]}
        if run is None:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no run {sent}"}
        if any(point["key"] in map(Names().of, self.refused_keys) for point in sent.get("metrics", ())):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "that is no metric"}
        return 200, run.do(call, sent, self.folder)

    def act_on_experiment(self, call, sent):
        number = {name: number for number, name in self.experiments.items()}.get(
            sent.get("experiment_name", sent.get("name")), sent.get("experiment_id")
        )
        if call == "experiments/create":
            number = str(len(self.experiments) + 1)
            self.created.append(sent)
            self.experiments[number] = sent["name"]
            return 200, {"experiment_id": number}
        if number not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no experiment {sent}"}
        place = {"experiment_id": number, "lifecycle_stage": "active", "artifact_location": self.folder.as_uri()}
        return 200, {"experiment": {"name": self.experiments[number], **place}}


class FakeRun:
    """One run, with the rules of MLflow's database: a point is kept once, a parameter never changes."""

    def __init__(self, run_id, sent):
        self.id = run_id
        self.experiment = sent.get("experiment_id", "1")
        self.status, self.statuses, self.ended = "RUNNING", [], None
        self.started = sent.get("start_time")
        self.tags = {tag["key"]: tag["value"] for tag in sent.get("tags", ())}
        self.params, self.points = {}, {}

    def curve(self, key):
        """The points of a metric key in the order in which they came, as (step, value)."""
        return [(point[2], point[3]) for point in self.points if point[0] in (key, Names().of(key))]

    def do(self, call, sent, folder):
        if call == "runs/log-batch":
            for point in sent.get("metrics", ()):
                value = "NaN" if point["value"] == "NaN" else float(point["value"])
                self.points[point["key"], int(point["timestamp"]), int(point["step"]), value] = True
            self.tags |= {tag["key"]: tag["value"] for tag in sent.get("tags", ())}
            for param in sent.get("params", ()):
                assert self.params.setdefault(param["key"], param["value"]) == param["value"]
        elif call == "runs/update":
            self.status, self.ended = sent["status"], sent.get("end_time")
            self.statuses.append(self.status)
            return {"run_info": self.shown(folder)["info"]}
        elif call == "runs/set-tag":
            self.tags[sent["key"]] = sent["value"]
        elif call == "runs/delete-tag":
            del self.tags[sent["key"]]
        elif call == "metrics/get-history":
            named = [point for point in self.points if point[0] == sent["metric_key"]]
            return {
                "metrics": [dict(zip(("key", "timestamp", "step", "value"), point, strict=True)) for point in named]
            }
        return {"run": self.shown(folder)} if call == "runs/get" else {}

    def shown(self, folder):
        info = {"run_id": self.id, "run_uuid": self.id, "experiment_id": self.experiment, "status": self.status}
        info |= {"artifact_uri": (folder / self.id).as_uri(), "lifecycle_stage": "active"}
        pairs = {"tags": self.tags, "params": self.params}
        latest = {}
        for key, timestamp, step, value in self.points:
            if key not in latest or (step, timestamp) >= (latest[key]["step"], latest[key]["timestamp"]):
                latest[key] = {"key": key, "value": value, "timestamp": timestamp, "step": step}
        data = {name: [{"key": key, "value": value} for key, value in table.items()] for name, table in pairs.items()}
        return {"info": info, "data": data | {"metrics": list(latest.values())}}


class _Http(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = urlsplit(self.path)
        sent = json.loads(body) if body else dict(parse_qsl(address.query))
        self.answer(address.path.partition("/mlflow/")[2], sent)

    def do_POST(self):
        self.do_GET()

    def answer(self, call, sent):
        fake = self.server.fake
        with fake.lock:
            mode = fake.mode(call) if callable(fake.mode) else fake.mode
            fake.requests.append((time.monotonic(), call, mode))
            fake.credentials.append(self.headers.get("Authorization"))
        if mode == "hang":
            fake.released.wait()
            return
        if mode == "slow":
            fake.released.wait(SLOW_S)
        if mode == "reset":
            self.break_off()
        elif mode == "redirect" and call:
            self.send(302, b"", location=f"{fake.address}/login")
        elif mode == "wait":
            self.send(429, b"", retry="1")
        elif mode == "html" or not call:
            self.send(200, HTML, "text/html")
        elif mode in NOT_MLFLOW:
            self.send(200, NOT_MLFLOW[mode])
        elif isinstance(mode, int):
            self.send(mode, HTML, "text/html")
        elif mode == "too large" and len(sent.get("metrics", ())) > TOO_MANY:
            self.send(413, HTML, "text/html")
        elif mode == "forget" and sent.get("metrics"):
            self.send(200, b"{}")
        else:
            self.handle_call(fake, call, sent, mode)

    def handle_call(self, fake, call, sent, mode):
        with fake.lock:
            status, reply = fake.act(call, sent)
            if mode == "twice" and not call.endswith("/create"):
                fake.act(call, sent)
        fake.after(call)
        if mode == "lost reply":
            self.break_off()
        elif mode == "half closed":
            self.connection.shutdown(socket.SHUT_WR)
            self.close_connection = True
        elif mode == "empty done":
            self.send(200, b"")
        else:
            self.send(status, json.dumps(reply).encode(), is_cut=mode == "cut")

    def send(self, status, body, kind="application/json", *, is_cut=False, location=None, retry=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (("Location", location), ("Retry-After", retry)):
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_cut else body)

    def break_off(self):
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass
