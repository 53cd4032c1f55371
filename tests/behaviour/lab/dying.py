"""Train a run, and kill the process of the run and of its uploads once the mirror has a number of objects."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import torch

import noether
from noether.runs.mirror import feed

if __name__ == "__main__":
    options, mirror, objects = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    start = feed._Uploader._start

    def start_and_watch(self: feed._Uploader) -> None:
        start(self)
        threading.Thread(target=watch, args=(self._process,), daemon=True).start()

    def watch(process) -> None:
        while len([path for path in mirror.rglob("*") if path.is_file()]) < objects:
            threading.Event().wait(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    feed._Uploader._start = start_and_watch
    noether.run(options.pop("spec"), **options)
    threading.Event().wait(20)
