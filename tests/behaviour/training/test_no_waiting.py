"""The loop never waits for a device: metrics and flags travel to the host and are used once they have arrived.

The CPU takes the place of a device: every tensor but those that were sent to the host counts as one there, each read of
a value is counted, and what was sent arrives some boundaries later.
"""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import noether
from noether.checkpoint.paths import checkpoint_folders
from noether.core.callbacks.default.online_loss import OnlineLossCallback
from noether.errors import NonFiniteError
from noether.metrics import device as devices
from noether.metrics.device import READING_METHODS, is_read
from noether.metrics.results import results_in
from noether.runs.prepare import rehearsal
from noether.spec.load import load_spec
from noether.testing import make_data, make_model, make_trainer
from noether.training.nonfinite import DeviceGuard

ALLOWED = ("noether/data/", "noether/checkpoint/", "noether/training/capture.py")
"""Code whose tensors are the host's own, indices of samples and states of generators, and that of checkpoints."""


PACKAGE = Path(noether.__file__).parent


class FakeDevice(TorchFunctionMode):
    """Counts reads of tensors by the place that reads them; tensors that were sent to the host are not on the device.

    Args:
        delay: Number of times that a copy is looked at before it has arrived.
    """

    def __init__(self, delay: int = 3) -> None:
        super().__init__()
        self.delay = delay
        self.reads: Counter[str] = Counter()
        self._host: list[Tensor] = []
        self._dispatched = DispatchedReads(self)

    def __enter__(self) -> FakeDevice:
        self._saved = devices.to_host, devices.recorded
        devices.to_host, devices.recorded = self.to_host, lambda _: Arrival(self)
        super().__enter__()
        self._dispatched.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._dispatched.__exit__(*error)
        super().__exit__(*error)
        devices.to_host, devices.recorded = self._saved

    def to_host(self, tensor: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            self._host.append(tensor.clone())
        return self._host[-1]

    def is_here(self, tensor: object) -> bool:
        return any(tensor is one for one in self._host)

    def count(self, name: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
        place = next((frame for frame in reversed(frames) if PACKAGE in Path(frame.filename).parents), frames[-1])
        if not any(part in place.filename for part in ALLOWED):
            self.reads[f"{name} at {place.filename}:{place.lineno}"] += 1

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function == Tensor.is_cpu.__get__:
            return self.is_here(args[0])
        if function in READING_METHODS and not self.is_here(args[0]):
            self.count(function.__name__)
            with torch._C.DisableTorchFunction(), self._dispatched.silent():
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


class DispatchedReads(TorchDispatchMode):
    """Counts numbers that torch's own code takes from a tensor."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device
        self.is_silent = False

    @contextmanager
    def silent(self) -> Iterator[None]:
        self.is_silent = True
        try:
            yield
        finally:
            self.is_silent = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if is_read(function, args) and not self.is_silent and not self.device.is_here(args[0]):
            self.device.count(function.__name__)
        return function(*args, **(kwargs or {}))


class Arrival:
    """An event that is reached after it was looked at some times."""

    def __init__(self, device: FakeDevice) -> None:
        self.left, self.device = device.delay, device

    def query(self) -> bool:
        self.left -= 1
        return self.left < 0

    def synchronize(self) -> None:
        self.left = 0


LOSS = "loss/online/total/online-loss"
EVALUATION = {"dataset_key": "test"}
QUIET: dict[str, dict[str, Any]] = {
    "online-loss": {},
    "progress": {},
    "eta": {},
    "lr": {},
    "param-count": {},
    "dataset-stats": {},
    "train-time": {},
    "peak-memory": {},
    "training-stability": {},
    "checkpoint": {},
    "ema": {"target_factors": [0.9]},
    "track-additional-outputs": {"keys": ["error"]},
    "offline-loss": EVALUATION,
    "offline-metrics": {**EVALUATION, "metrics": {"y": ["rmse", "mae", "r2", "relative-l2"]}},
    "fixed-early-stopper": {"stop_at_update": 1000},
}
"""Built-in callbacks that ask for no value of the device, with their options."""
ASKING = {
    "best-checkpoint": "compares a metric",
    "best-metric": "compares a metric",
    "metric-early-stopper": "compares a metric",
}
"""Those that need a value at once, and why."""


def trained(
    folder: Path, device: FakeDevice | None = None, *, bad: tuple[int, ...] = (), masks: bool = True, **table: Any
) -> Any:
    """Train with updates that are masked on the device, or looked at by the host; return the trainer."""
    data = make_data()
    data.train.properties["x"][list(bad)] = float("nan")
    table = {"max_updates": 12, "skip_nan_loss": True, **table}
    trainer = make_trainer(folder, data=data, **table)
    count = trainer.config.skip_nan_loss_max_count
    if masks:
        trainer.one_update.guard = DeviceGuard(skip=trainer.config.skip_nan_loss, max_in_a_row=count)
    model = make_model(optimizer={"kind": "AdamW", "lr": 0.1, "clip_grad_norm": 1.0})
    compute = trainer.loss_compute
    trainer.loss_compute = lambda *given: (losses := compute(*given), {"error": losses["y_loss"].detach() + 1})
    trainer.prepare(model)
    try:
        if device is None:
            trainer.train(model)
        else:
            with device:
                trainer.train(model)
    finally:
        trainer.log_writer.close()
    return trainer


def lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "test-run" / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(row) for row in text.splitlines()]


def growth(folder: Path, **table: Any) -> Counter[str]:
    """Return the reads that twice as many updates and boundaries cost more."""
    short, long = FakeDevice(), FakeDevice()
    trained(folder / "short", short, max_updates=12, **table)
    trained(folder / "long", long, max_updates=24, **table)
    return long.reads - short.reads


def test_every_built_in_callback_is_known_to_ask_or_not_to_ask():
    known = {entry.name for entry in entry_points(group="noether.callbacks") if entry.value.startswith("noether.")}
    assert known == QUIET.keys() | ASKING.keys()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", QUIET)
def test_a_callback_costs_no_wait_at_an_update_or_a_boundary(tmp_path, kind, precision):
    interval = {} if kind == "fixed-early-stopper" else {"every_n_updates": 2}
    callback = {"kind": kind, **interval, **QUIET[kind]}
    assert growth(tmp_path, callbacks=[callback], precision=precision) == {}


def test_default_callbacks_that_log_at_every_update_cost_no_wait(tmp_path):
    table = {"add_default_callbacks": True, "log_every_n_updates": 1, "track_every_n_updates": 1}
    assert growth(tmp_path, **table) == {}


def test_a_read_of_a_callback_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(OnlineLossCallback, "periodic_callback", lambda self, **_: float(self.trainer.last_loss))
    assert growth(tmp_path, callbacks=[{"kind": "online-loss", "every_n_updates": 2}]).total() == 6


@pytest.mark.parametrize("reduce", ["mean", "last"])
@pytest.mark.parametrize("bad", [(), (3, 4, 17), range(24)], ids=len)
def test_outputs_of_masked_updates_are_left_out_without_a_wait(tmp_path, reduce, bad):
    callbacks = [
        {"kind": "track-additional-outputs", "every_n_updates": 3, "keys": ["error"], "reduce": reduce},
        {"kind": "checkpoint", "every_n_updates": 5},
    ]
    count = {"skip_nan_loss_max_count": 100}
    trained(tmp_path / "late", FakeDevice(), callbacks=callbacks, bad=tuple(bad), **count)
    trained(tmp_path / "now", callbacks=callbacks, bad=tuple(bad), masks=False, **count)
    found = [(line["update"], line["metrics"]) for line in lines(tmp_path / "late")]
    expected = [(line["update"], line["metrics"]) for line in lines(tmp_path / "now")]
    assert [update for update, _ in found] == [update for update, _ in expected]
    for (_, metrics), (_, others) in zip(found, expected, strict=True):
        assert metrics == pytest.approx(others, rel=1e-12)


@pytest.mark.parametrize("delay", [0, 1, 5, 1000])
def test_lines_are_complete_and_in_order_however_late_their_values_arrive(tmp_path, delay):
    callbacks = [
        {"kind": "online-loss", "every_n_updates": 2},
        {"kind": "training-stability", "every_n_updates": 3},
        {"kind": "offline-loss", "every_n_updates": 4, "dataset_key": "test"},
        {"kind": "eta", "every_n_updates": 5},
        {"kind": "checkpoint", "every_n_updates": 7},
    ]
    trained(tmp_path / "late", FakeDevice(delay), callbacks=callbacks, bad=(3, 4, 17))
    trained(tmp_path / "now", callbacks=callbacks, bad=(3, 4, 17))
    found, expected = lines(tmp_path / "late"), lines(tmp_path / "now")
    assert [line["update"] for line in found] == [line["update"] for line in expected]
    for line, other in zip(found, expected, strict=True):
        assert line["metrics"].keys() == other["metrics"].keys()
        measured = [key for key in line["metrics"] if not key.startswith("profiling/")]
        assert [line["metrics"][key] for key in measured] == [other["metrics"][key] for key in measured]


def test_a_line_is_written_when_its_values_have_arrived_and_not_only_at_the_end(tmp_path):
    seen = {}
    trainer = make_trainer(tmp_path, callbacks=[{"kind": "online-loss", "every_n_updates": 2}], max_updates=12)
    trainer.prepare(model := make_model())
    path = tmp_path / "test-run" / "metrics.jsonl"

    def look(counter, times):
        seen[counter.update] = len(path.read_text().splitlines()) if path.exists() else 0

    trainer.dispatch.track_after_update_step = look
    with FakeDevice(delay=2):
        trainer.train(model)
    trainer.log_writer.close()
    assert seen[3] == 0  # sent after update 2
    assert seen[6] >= 1
    assert len(lines(tmp_path)) == 6


def test_a_checkpoint_has_the_lines_before_it_and_knows_the_masked_updates(tmp_path):
    callbacks = [{"kind": "online-loss", "every_n_updates": 1}, {"kind": "checkpoint", "every_n_updates": 6}]
    trained(tmp_path, FakeDevice(delay=1000), callbacks=callbacks, bad=tuple(range(24)), max_updates=6)
    (folder,) = checkpoint_folders(tmp_path / "test-run" / "checkpoints")
    state = json.loads((folder / "trainer.json").read_text())
    assert state["trainer"]["skipped_in_a_row"] == 6


@pytest.mark.parametrize("delay", [0, 2, 1000])
def test_a_run_gives_up_for_the_same_update_and_writes_nothing_that_was_measured_after_it(tmp_path, delay):
    table = {"callbacks": [{"kind": "online-loss", "every_n_updates": 2}], "skip_nan_loss": False, "bad": (20,)}
    messages = []
    for name, device in (("late", FakeDevice(delay)), ("now", None)):
        with pytest.raises(NonFiniteError) as caught:
            trained(tmp_path / name, device, **table)
        messages.append(caught.value.message)
    assert messages[0] == messages[1]
    late_lines, now_lines = lines(tmp_path / "late"), lines(tmp_path / "now")
    assert [line["update"] for line in late_lines] == [line["update"] for line in now_lines]
    assert checkpoint_folders(tmp_path / "late" / "test-run" / "checkpoints") == []


def test_an_error_is_not_replaced_by_masked_updates_that_nobody_has_counted(tmp_path):
    trainer = make_trainer(tmp_path, max_updates=12, callbacks=[{"kind": "online-loss", "every_n_updates": 2}])
    trainer.data_container.train.properties["x"][:] = float("nan")
    trainer.one_update.guard = DeviceGuard(skip=False, max_in_a_row=1)
    trainer.prepare(model := make_model(optimizer={"kind": "AdamW", "lr": 0.1}))

    def fail(counter, times):
        if counter.update == 5:
            raise ZeroDivisionError

    trainer.dispatch.track_after_update_step = fail
    with FakeDevice(delay=1000), pytest.raises(ZeroDivisionError):
        trainer.train(model)
    trainer.log_writer.close()
    assert lines(tmp_path) == []  # what was measured since an update that ends the run is not written


def test_a_callback_that_asks_for_a_value_gets_it_at_once_by_one_read(tmp_path):
    found = []
    trainer = make_trainer(tmp_path, callbacks=[{"kind": "online-loss", "every_n_updates": 2}], max_updates=6)
    trainer.prepare(model := make_model())
    usual = trainer.dispatch.after_update

    def ask(counter, **arguments):
        usual(counter, **arguments)
        found.append(trainer.log_writer.current(LOSS))

    trainer.dispatch.after_update = ask
    with FakeDevice(delay=1000) as device:
        trainer.train(model)
    trainer.log_writer.close()
    read = [times for place, times in device.reads.items() if "noether/metrics/values.py" in place]
    assert sum(read) == len(found) == 3
    assert found == [line["metrics"][LOSS] for line in lines(tmp_path)]


def test_a_schedule_that_follows_a_metric_sees_it_before_the_next_update(tmp_path):
    optimizer = {
        "kind": "SGD",
        "lr": 0.1,
        "schedule": {"kind": "reduce-on-plateau", "metric_key": LOSS, "patience": 0, "threshold": 0.9},
    }
    weights = []
    for name, device in (("late", FakeDevice(delay=1000)), ("now", None)):
        trainer = make_trainer(tmp_path / name, callbacks=[{"kind": "online-loss", "every_n_updates": 2}])
        trainer.prepare(model := make_model(optimizer=optimizer))
        if device is None:
            trainer.train(model)
        else:
            with device:
                trainer.train(model)
        trainer.log_writer.close()
        weights.append(model.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_plot_and_a_histogram_travel_the_same_way(tmp_path):
    trainer = make_trainer(tmp_path, max_updates=4)
    trainer.prepare(model := make_model())
    trainer.dispatch.track_after_update_step = lambda counter, times: trainer.log_writer.add_nonscalar(
        "loss", {"bins": [trainer.last_loss.reshape(1), 3]}
    )
    trainer.dispatch.track_after_accumulation_step = lambda *_, **__: trainer.log_writer.add_histogram(
        "weights", next(model.parameters())
    )
    with FakeDevice(delay=1) as device:
        trainer.train(model)
    trainer.log_writer.close()
    rows = (tmp_path / "test-run" / "nonscalars.jsonl").read_text().splitlines()
    assert [json.loads(row)["update"] for row in rows] == [1, 2, 3, 4]
    assert [result.update for result in results_in(tmp_path / "test-run")] == [1, 2, 3, 4]
    assert not [place for place in device.reads if "metrics/" in place]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch's own check for waits is of CUDA")
@pytest.mark.parametrize("resident", [False, True])
def test_no_operation_of_an_update_waits_for_a_gpu(tiny_spec, resident):
    callbacks = [{"kind": kind, "every_n_updates": 2, **QUIET[kind]} for kind in ("online-loss", "lr", "eta")]
    changes = {"device": "cuda", "trainer.max_epochs": 6, "trainer.callbacks": callbacks}
    changes |= {"loader.device_resident": resident}

    def strict(counter, times):
        torch.cuda.set_sync_debug_mode("error" if 10 <= counter.update < 30 else "default")

    with rehearsal(load_spec(tiny_spec, set=changes)) as run:
        run.trainer.dispatch.track_after_update_step = strict
        try:
            run.trainer.train(run.model)
        finally:
            torch.cuda.set_sync_debug_mode("default")
