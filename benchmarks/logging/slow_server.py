"""A slow tracking server with the needed part of MLflow's REST interface, in a separate process.

`python slow_server.py SECONDS FOLDER` prints its port, answers every request after so many seconds, and appends the
values of every `log-batch` to `FOLDER/received.jsonl`.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DELAY_S, FOLDER = float(sys.argv[1]), Path(sys.argv[2])
EXPERIMENT = {
    "experiment_id": "1",
    "name": "digits",
    "artifact_location": FOLDER.as_uri(),
    "lifecycle_stage": "active",
}
RUN = {
    "info": {
        "run_id": "r",
        "run_uuid": "r",
        "experiment_id": "1",
        "status": "RUNNING",
        "artifact_uri": FOLDER.as_uri(),
        "lifecycle_stage": "active",
    },
    "data": {},
}
ANSWERS: dict[str, Any] = {
    "experiments/get-by-name": {"experiment": EXPERIMENT},
    "experiments/get": {"experiment": EXPERIMENT},
    "runs/search": {"runs": []},
    "runs/create": {"run": RUN},
    "runs/get": {"run": RUN},
    "runs/update": {"run_info": RUN["info"]},
}


class Handler(BaseHTTPRequestHandler):
    """Answers after a while."""

    def do_GET(self) -> None:  # the name that http.server looks for
        self.answer()

    def do_POST(self) -> None:  # the name that http.server looks for
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(DELAY_S)
        call = self.path.partition("/mlflow/")[2].partition("?")[0]
        if call == "runs/log-batch":
            with (FOLDER / "received.jsonl").open("a") as received:
                received.write(json.dumps(json.loads(body).get("metrics", [])) + "\n")
        answer = json.dumps(ANSWERS.get(call, {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
