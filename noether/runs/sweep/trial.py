"""The process of a trial: it ends with the sweep, and as a run plugin lets the sweep's pruner end it.

The sweep starts it with one end of a socket. When the other end closes, the sweep is gone, however it died: the run is
asked to stop as by SIGTERM, and commits a checkpoint. A run of a trial that is continued by hand has no socket; the run
plugin does nothing then.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import runpy
import signal
import socket
import sys
import threading
from typing import Any

from noether.kernel.hookspecs import hookimpl
from noether.kernel.progress import EarlyStopIteration, UpdateCounter

SWEEP, METRIC = "NOETHER_SWEEP", "NOETHER_SWEEP_METRIC"
"""Variables of the environment of a trial: the name of its sweep, and the metric that the pruner follows."""
PLUGIN = __name__


class _Link:
    """The socket to the sweep; a thread reads it, which notices that the sweep is gone."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._is_gone = False

    def attach(self, descriptor: int) -> None:
        """Begin to listen."""
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        threading.Thread(target=self._listen, args=(self._socket,), name="noether-sweep", daemon=True).start()

    def _listen(self, link: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := link.recv(1):
                self._answers.put(answer)
        self._is_gone = True
        self._answers.put(b"")
        os.kill(os.getpid(), signal.SIGTERM)

    def goes_on(self, update: int, value: float) -> bool:
        """Report a value of the metric; return False if the pruner ends the trial."""
        if self._socket is None or self._is_gone:
            return True
        try:
            self._socket.sendall(json.dumps([update, repr(value)]).encode() + b"\n")
        except OSError:
            return True
        return self._answers.get() != STOP


GO, STOP = b"g", b"s"
LINK = _Link()
_writer: Any = None
_last = -1


@hookimpl
def run_started(run: Any) -> None:
    """Keep the writer of the metrics."""
    global _writer, _last
    _writer, _last = run.trainer.log_writer, -1


@hookimpl(trylast=True)
def after_update(update_counter: UpdateCounter) -> None:
    """Report the metric if this update has logged it.

    Raises:
        EarlyStopIteration: if the pruner ends the trial.
    """
    global _last
    key = os.environ.get(METRIC)
    if key is None or update_counter.update == _last or key not in _writer.round.scalars:
        return
    _last = update_counter.update
    metrics = _writer.current_metrics()  # without means over nothing
    if key in metrics and not LINK.goes_on(_last, metrics[key]):
        raise EarlyStopIteration(f"the pruner of the sweep ends it: {key} falls behind other trials")


@hookimpl(trylast=True)
def after_epoch(update_counter: UpdateCounter) -> None:
    """Report the metric if this epoch has logged it; see `after_update`."""
    after_update(update_counter)


def main() -> None:
    """Run the command line behind the number of the socket."""
    LINK.attach(int(sys.argv[1]))
    sys.argv = ["noether", *sys.argv[2:]]
    runpy.run_module("noether", run_name="__main__", alter_sys=True)
