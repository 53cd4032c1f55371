"""Proofs and figures of updates on a GPU, in one run of at most five minutes.

```
python benchmarks/device/run.py --out FILE.json      # exits 2 on a machine without a GPU
```

`python docs/performance_figures.py --device FILE.json` shows the figures beside their goals.

It does three things, with `noether.run` and the default callbacks each time:

1. **Equality**: trains two models in four number formats and settings each, eagerly and with `update = "graph"`, and
   compares the bytes of weights, optimizer states and all metrics after 203 updates.
2. **Waits**: trains with `torch.cuda.set_sync_debug_mode("error")` around 100 updates, boundaries that log included.
3. **Figures**: the microseconds of an update in rounds that alternate: eager against a bare loop with the same
   optimizer and pinned copies, and the graph against a graph that is captured by hand, fed by the loader and from data
   on the device.

`--on-cpu` goes through all of it in a few seconds with a CPU in the place of the GPU, to test the script; its times say
nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import noether

sys.path.insert(0, str(Path(__file__).parent))
from parts import Net, synchronize

SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32, clip, dropout, batch norm": {"clip": 1.0, "dropout": 0.1, "norm": True},
    "bf16, clip": {"precision": "bf16", "clip": 1.0},
    "fp16, scaler, clip": {"precision": "fp16", "clip": 1.0},
}
TIMED = ("fp32", "bf16, clip")


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and its data."""

    name: str
    samples: int
    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    batch: int


@dataclass(frozen=True)
class Extent:
    """Device, shapes and lengths of the measurements."""

    device: str
    shapes: tuple[Shape, ...]
    equal_updates: int
    timed_updates: int
    rounds: int
    seconds: float


ON_GPU = Extent(
    "cuda",
    (Shape("tiny", 8192, 8, (32,), 1, 32), Shape("middle", 32768, 64, (512, 512, 512), 16, 1024)),
    equal_updates=203,
    timed_updates=400,
    rounds=3,
    seconds=280,
)
ON_CPU = Extent("cpu", (Shape("tiny", 256, 8, (4,), 1, 32),), equal_updates=11, timed_updates=20, rounds=1, seconds=120)


class Bench:
    """The data of each shape, and runs on them.

    Args:
        extent: Device, shapes and lengths.
        folder: Folder for data and runs.
    """

    def __init__(self, extent: Extent, folder: Path) -> None:
        self.extent = extent
        self.folder = folder
        self.data: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._runs = 0
        for shape in extent.shapes:
            generator = torch.Generator().manual_seed(3)
            x = torch.randn(shape.samples, shape.inputs, generator=generator)
            y = torch.randn(shape.samples, shape.outputs, generator=generator)
            self.data[shape.name] = x, y
            np.savez(folder / f"{shape.name}.npz", x=x.numpy(), y_target=y.numpy())

    def run(
        self,
        shape: Shape,
        form: str,
        updates: int,
        *,
        watch: dict[str, Any] | None = None,
        resident: bool = False,
        precision: str = "fp32",
        clip: float | None = None,
        **model: Any,
    ) -> Any:
        """Train by a spec, with the default callbacks; return the outcome."""
        self._runs += 1
        optimizer = {"kind": "AdamW", "lr": 1e-3, "schedule": "cosine"} | ({"clip_grad_norm": clip} if clip else {})
        sizes = {"inputs": shape.inputs, "hidden": list(shape.hidden), "outputs": shape.outputs}
        spec = {
            "name": "device",
            "device": self.extent.device,
            "threads": 1,
            "output": str(self.folder / "runs"),
            "datasets": {"train": {"kind": "file", "path": str(self.folder / f"{shape.name}.npz")}},
            "model": {"kind": "parts.Net", **sizes, **model, "optimizer": optimizer},
            "trainer": {
                "kind": "weighted-loss",
                "max_updates": updates,
                "effective_batch_size": shape.batch,
                "forward_properties": ["x"],
                "target_properties": ["y_target"],
                "field_weights": {"y": 1.0},
                "precision": precision,
                "update": form,
                "track_every_n_updates": 50,
                "callbacks": [{"kind": "parts.Marks", **watch}] if watch else [],
            },
            "trackers": [{"kind": "noop"}],
        }
        if resident:
            spec["loader"] = {"device_resident": True}
        outcome = noether.run(spec, run_id=f"run-{self._runs}", quiet=True)
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def timed(self, shape: Shape, form: str, **settings: Any) -> dict[str, float]:
        """Return the seconds of an update of a run, once it is warm."""
        count, to = self.extent.timed_updates, self.folder / "marks.json"
        watch = {"every_n_updates": count, "begin": count, "end": 2 * count, "to": str(to)}
        self.run(shape, form, 2 * count, watch=watch, **settings)
        return json.loads(to.read_text())


def equality(bench: Bench, shape: Shape, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the parts in which a run by graphs and an eager one differ."""
    left = []
    for form in ("eager", "graph"):
        outcome = bench.run(shape, form, bench.extent.equal_updates, **settings)
        step = max((outcome.run_dir / "checkpoints").glob("step-*"))
        lines = [json.loads(line) for line in (outcome.run_dir / "metrics.jsonl").read_text().splitlines()]
        metrics = [(line["update"], k, v) for line in lines for k, v in line["metrics"].items() if "profiling" not in k]
        parts = {name: (step / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer")}
        left.append({**parts, "metrics": [m for m in metrics if "memory" not in m[1]]})
        log = (outcome.run_dir / "log.txt").read_text().splitlines()
    reasons = [line for line in log if "not graph" in line]
    return {"differs": [name for name in left[0] if left[0][name] != left[1][name]], "eager_because": reasons}


def waits(bench: Bench, shape: Shape, form: str) -> str | None:
    """Return the first operation that waits for the device in 100 updates, boundaries included; None without one."""
    count = min(100, bench.extent.timed_updates)
    watch = {"every_n_updates": count, "begin": count, "end": 2 * count, "to": str(bench.folder / "waits.json")}
    try:
        bench.run(shape, form, 2 * count, watch={**watch, "refuses_waits": True})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
    return None


# The same updates by hand


class ByHand:
    """A bare loop: batches gathered into pinned memory and copied, fused AdamW with its learning rate in a tensor."""

    def __init__(self, bench: Bench, shape: Shape, *, precision: str = "fp32", clip: float | None = None) -> None:
        device = bench.extent.device
        torch.manual_seed(0)
        self.device, self.clip = device, clip
        self.dtype = {"fp32": None, "bf16": torch.bfloat16}[precision]
        self.model = Net(shape.inputs, list(shape.hidden), shape.outputs).to(device)
        rate = torch.tensor(1e-3, device=device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, fused=True, capturable=device == "cuda")
        self.data = bench.data[shape.name]
        order = torch.randperm(shape.samples, generator=torch.Generator().manual_seed(1))
        self.indices = order[: shape.samples // shape.batch * shape.batch].split(shape.batch)
        pinned = torch.cuda.is_available()
        # One pair of buffers for each batch that may be on its way.
        self.ring = [[torch.empty(shape.batch, s.shape[1], pin_memory=pinned) for s in self.data] for _ in range(16)]
        self.inputs = [torch.empty(shape.batch, each.shape[1], device=device) for each in self.data]

    def batch(self, number: int) -> list[torch.Tensor]:
        """Return a batch in pinned memory."""
        buffers, indices = self.ring[number % len(self.ring)], self.indices[number % len(self.indices)]
        for source, buffer in zip(self.data, buffers, strict=True):
            torch.index_select(source, 0, indices, out=buffer)
        return buffers

    def update(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Do one update with a batch on the device."""
        autocast = contextlib.nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)
        with autocast:
            loss = F.mse_loss(self.model(x), y)
        loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def eager(self, number: int) -> None:
        """Copy a batch, and update."""
        self.update(*(buffer.to(self.device, non_blocking=True) for buffer in self.batch(number)))

    def captured(self, capture: Callable[[Callable[[], None]], Any]) -> Callable[[int], None]:
        """Return updates that copy a batch to the inputs of a graph, and replay it."""
        for number in range(3):
            self.eager(number)
        for target, buffer in zip(self.inputs, self.batch(0), strict=True):
            target.copy_(buffer)
        graph = capture(lambda: self.update(*self.inputs))

        def update(number: int) -> None:
            for target, buffer in zip(self.inputs, self.batch(number), strict=True):
                target.copy_(buffer, non_blocking=True)
            graph.replay()

        return update


def timed_by_hand(update: Callable[[int], None], count: int) -> dict[str, float]:
    """Return the seconds of an update, once it is warm."""
    for number in range(count // 4):
        update(number)
    synchronize()
    started = time.perf_counter()
    for number in range(count):
        update(number)
    host = time.perf_counter() - started
    synchronize()
    return {"host": host / count, "update": (time.perf_counter() - started) / count}


def capture_on_gpu(work: Callable[[], None]) -> Any:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def figures(bench: Bench, shape: Shape, settings: dict[str, Any], capture: Callable[..., Any]) -> dict[str, Any]:
    """Return the median microseconds of an update of each kind, in rounds that alternate, and the ratios."""
    count = bench.extent.timed_updates
    sides: dict[str, Callable[[], dict[str, float]]] = {
        "bare loop": lambda: timed_by_hand(ByHand(bench, shape, **settings).eager, count),
        "eager": lambda: bench.timed(shape, "eager", **settings),
        "graph by hand": lambda: timed_by_hand(ByHand(bench, shape, **settings).captured(capture), count),
        "graph": lambda: bench.timed(shape, "graph", **settings),
        "graph, data on the device": lambda: bench.timed(shape, "graph", resident=True, **settings),
    }
    found: dict[str, list[float]] = {}
    for _ in range(bench.extent.rounds):
        for name, measure in sides.items():
            found.setdefault(name, []).append(measure()["update"] * 1e6)
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    pairs = {"eager": "bare loop", "graph": "graph by hand", "graph, data on the device": "graph by hand"}
    ratios = {one: round(medians[one] / medians[other], 3) for one, other in pairs.items()}
    return {"us": medians, "ratios": ratios}


@contextlib.contextmanager
def stand_in() -> Iterator[Callable[..., Any]]:
    """Let the CPU be a device with graphs."""
    from noether.testing import RecordingDevice
    from noether.training import graph, nonfinite

    device = RecordingDevice()
    kept = graph.device_of, nonfinite.MASKING_DEVICES, nonfinite.ROUNDING_DEVICES
    graph.device_of = lambda _: device
    nonfinite.MASKING_DEVICES = nonfinite.ROUNDING_DEVICES = frozenset({"cpu"})
    try:
        yield lambda work: device.capture(work)[0]
    finally:
        graph.device_of, nonfinite.MASKING_DEVICES, nonfinite.ROUNDING_DEVICES = kept


def measured(extent: Extent, capture: Callable[..., Any], folder: Path) -> dict[str, Any]:
    """Return all proofs and figures; what does not fit into the time is left out."""
    started, bench = time.monotonic(), Bench(extent, folder)
    rows: dict[str, Any] = {}
    for shape in extent.shapes:
        for name, settings in SETTINGS.items():
            rows[f"{shape.name}, {name}"] = {"equality": equality(bench, shape, settings)}
    found = {form: waits(bench, extent.shapes[0], form) for form in ("eager", "graph")}
    for shape in extent.shapes:
        for name in TIMED:
            if time.monotonic() - started < extent.seconds * 0.8:
                rows[f"{shape.name}, {name}"]["figures"] = figures(bench, shape, SETTINGS[name], capture)
    device = torch.cuda.get_device_name() if extent.device == "cuda" else "a CPU (its times say nothing)"
    seconds = round(time.monotonic() - started)
    return {"device": device, "torch": torch.__version__, "seconds": seconds, "rows": rows, "waits": found}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="report, in JSON")
    parser.add_argument("--on-cpu", action="store_true", help="test the script with a CPU in the place of the GPU")
    options = parser.parse_args(arguments)
    if not options.on_cpu and not torch.cuda.is_available():
        print("no GPU was found, so nothing is measured; run this on a machine with CUDA", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # more of them gather a batch 50 times slower
    out, before = options.out.resolve(), Path.cwd()
    os.chdir(Path(__file__).parent)  # the spec names `parts.Net`
    try:
        device = stand_in() if options.on_cpu else contextlib.nullcontext(capture_on_gpu)
        with tempfile.TemporaryDirectory() as folder, device as capture:
            result = measured(ON_CPU if options.on_cpu else ON_GPU, capture, Path(folder))
    finally:
        os.chdir(before)
    text = json.dumps(result, indent=1)
    out.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
