"""A tiny problem with its spec, builders of small real objects for tests, and a CPU in place of a device.

```python
def test_my_callback_logs_its_metric(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = make_callback({"kind": "x/mine", "every_n_epochs": 1}, trainer)
    callback.periodic_callback(interval_type="epoch", update_counter=make_counter(update=6))
    assert trainer.log_writer.current("mine") == 1.0
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pytest
import torch
from pydantic import Field, TypeAdapter
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from noether.checkpoint.paths import PathProvider
from noether.config.components import CallBackBaseConfig, DatasetBaseConfig
from noether.config.discriminated import Discriminated
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.tree import build_callback
from noether.core.models.base import ModelBase
from noether.core.models.mlp import MLP, MLPConfig
from noether.core.trackers import NoopTracker
from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.metrics.device import is_read
from noether.training import graph, nonfinite
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.weighted_loss import WeightedLossTrainer, WeightedLossTrainerConfig

SAMPLES, TEST_SAMPLES, BATCH = 24, 10, 4
"""An epoch has six updates of four samples."""


class TinyDataConfig(DatasetBaseConfig):
    """Settings of the tiny data set."""

    part: Literal["train", "test"] = Field("train", description="The 24 samples to train on, or 10 others.")


class TinyData(InMemoryDataset):
    """`x` of shape (3,), and `y_target` of shape (2,), a linear map of `x`."""

    @classmethod
    def known_properties(cls, config: TinyDataConfig) -> tuple[str, ...]:
        """Return the properties of every sample."""
        return ("x", "y_target")

    def __init__(self, dataset_config: TinyDataConfig) -> None:
        super().__init__(tiny_samples()[dataset_config.part], dataset_config)


def tiny_samples(
    samples: int = SAMPLES, test_samples: int = TEST_SAMPLES, seed: int = 0
) -> dict[str, dict[str, torch.Tensor]]:
    """Return the properties of both parts: `x` of shape (samples, 3), `y_target` of shape (samples, 2)."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.randn(3, 2, generator=generator)
    parts = {}
    for part, size in (("train", samples), ("test", test_samples)):
        x = torch.randn(size, 3, generator=generator)
        parts[part] = {"x": x, "y_target": x @ slope}
    return parts


def tiny_spec(**tables: Any) -> dict[str, Any]:
    """Return a spec of twelve updates, two epochs, of an `mlp` with one hidden layer of four units.

    Args:
        **tables: Tables to change key by key, `trainer={"max_updates": 3}`; None removes a key.
    """
    data = "noether.testing.builders.TinyData"
    spec: dict[str, Any] = {
        "spec": 1,
        "name": "tiny",
        "seed": 0,
        "threads": 1,
        "datasets": {"train": {"kind": data}, "test": {"kind": data, "part": "test"}},
        "model": {
            "kind": "mlp",
            "hidden": [4],
            "out_features": {"y": 2},
            "optimizer": {"kind": "AdamW", "lr": 0.01},
        },
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": 12,
            "effective_batch_size": BATCH,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
        },
        "trackers": [{"kind": "noop"}],
    }
    return merged(spec, tables)


def merged(*specs: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables as one, key by key; the later ones count, and None removes a key."""
    result: dict[str, Any] = {}
    for spec in specs:
        for key, value in spec.items():
            below = result.get(key)
            is_table = isinstance(value, Mapping)
            result[key] = merged(below if isinstance(below, Mapping) else {}, value) if is_table else value
    return {key: value for key, value in result.items() if value is not None}


_CONFIG: TypeAdapter[CallBackBaseConfig] = TypeAdapter(Annotated[Any, Discriminated("callback")])


def make_data(*, samples: int = SAMPLES, test_samples: int = TEST_SAMPLES, seed: int = 0) -> DataContainer:
    """Return data sets `train` and `test`: `x` of shape (3,), and `y_target` of shape (2,), a linear map of `x`."""
    parts = tiny_samples(samples, test_samples, seed)
    return DataContainer({key: InMemoryDataset(properties) for key, properties in parts.items()}, seed=seed)


def make_model(*, seed: int = 0, **settings: Any) -> ModelBase:
    """Return an `mlp` from `x` to `y` with one hidden layer of four units and plain SGD.

    Args:
        seed: Seed of the weights; the global generator is not changed.
        **settings: Config fields to override.
    """
    table = {
        "kind": "mlp",
        "hidden": [4],
        "in_features": {"x": 3},
        "out_features": {"y": [2]},
        "optimizer": {"kind": "SGD", "lr": 0.1},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(MLPConfig.model_validate({**table, **settings}))


def make_trainer(folder: Path, *, data: DataContainer | None = None, **settings: Any) -> BaseTrainer:
    """Return a `weighted-loss` trainer of two epochs over `make_data()`, without default callbacks.

    Args:
        folder: Parent of the run folder `test-run`, such as a test's `tmp_path`.
        data: The data sets; `make_data()` by default.
        **settings: Config fields to override.
    """
    table: dict[str, Any] = {
        "kind": "weighted-loss",
        "effective_batch_size": BATCH,
        "forward_properties": ["x"],
        "target_properties": ["y_target"],
        "field_weights": {"y": 1.0},
        "add_default_callbacks": False,
    }
    if not {"max_epochs", "max_updates", "max_samples"} & settings.keys():
        table["max_epochs"] = 2
    paths = PathProvider(folder, "test-run")
    paths.run_path.mkdir(parents=True, exist_ok=True)
    return WeightedLossTrainer(
        WeightedLossTrainerConfig.model_validate({**table, **settings}),
        data_container=data or make_data(),
        device="cpu",
        tracker=NoopTracker(),
        path_provider=paths,
    )


def make_callback(
    config: CallBackBaseConfig | Mapping[str, Any], trainer: BaseTrainer, model: ModelBase | None = None
) -> Any:
    """Return the callback of `config`, built with the data, writers and tracker of `trainer`.

    Args:
        config: The config, or its table in a spec: `{"kind": "eta", "every_n_updates": 1}`.
        trainer: The trainer that it follows.
        model: The model; a new `make_model()` by default.
    """
    config = _CONFIG.validate_python(dict(config) if isinstance(config, Mapping) else config)
    callback: CallbackBase = build_callback(config, trainer.callback_default_kwargs(model or make_model()))
    callback.id = callback.id or config.kind
    return callback


def make_counter(
    *, update: int = 0, end_update: int = 100, updates_per_epoch: int = 6, effective_batch_size: int = BATCH
) -> UpdateCounter:
    """Return a counter at update `update` of a run of `end_update` updates."""
    now = TrainingIteration(update // updates_per_epoch, update, update * effective_batch_size)
    return UpdateCounter(now, TrainingIteration(update=end_update), updates_per_epoch, effective_batch_size)


T = TypeVar("T")

_COPIES = frozenset({"lift_fresh", "lift_fresh_copy"})  # `torch.tensor(…)`, which comes from pageable memory


class RecordingDevice:
    """Stand-in of a device with streams and graphs, which works on the CPU.

    It captures as CUDA does: a capture changes no memory and no generator; numbers of Python are a part of the graph; a
    replay repeats the operations of torch on the same memory, and nothing else; what a graph computes is not a number
    before its first replay; an operation that would wait for the device is refused.

    It copies as late as it may: when the host waits for a copy, or the device uses it.

    Attributes:
        calls: Calls in order: `aside`, `back` at its end, `capture`, `replay`; `buffer`, `send`, `receive`; `wait` if
            the host had to wait for a copy.
    """

    name = "cpu"

    def __init__(self) -> None:
        self.calls: list[str] = []

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Note the begin and the end of a block on a side stream."""
        self.calls.append("aside")
        try:
            yield
        finally:
            self.calls.append("back")

    def capture(self, work: Callable[[], T]) -> tuple[RecordedGraph, T]:
        """Record the operations of some work, and undo what they have changed."""
        self.calls.append("capture")
        recorder, generator = _Recorder(), torch.get_rng_state()
        try:
            with recorder:
                result = work()
        finally:
            recorder.undo()
            torch.set_rng_state(generator)
        return RecordedGraph(recorder.operations, self.calls), result

    def refusing_waits(self) -> AbstractContextManager[Any]:
        """Return a context in which an operation that would wait for a device raises RuntimeError."""
        return _Refusing()  # type: ignore[no-untyped-call]  # untyped in torch

    def generator_state(self) -> Tensor:
        """Return the state of the default generator."""
        return torch.get_rng_state()

    def buffer(self, size: int) -> Tensor:
        """Return memory in which no number is yet."""
        self.calls.append("buffer")
        return torch.full((size,), 255, dtype=torch.uint8)

    def send(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], RecordedCopy]:
        """Return other tensors, which get their values when the host waits for the copy or the device uses it."""
        self.calls.append("send")
        sent = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
        return sent, RecordedCopy(tensors, sent, self.calls)


@contextmanager
def graphs_on_cpu() -> Iterator[RecordingDevice]:
    """Train with a stand-in of a device with graphs; the CPU masks updates and rounds rates as such ones do."""
    device = RecordingDevice()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "device_of", lambda _: device)
        patch.setattr(nonfinite, "MASKING_DEVICES", frozenset({"cpu"}))
        patch.setattr(nonfinite, "ROUNDING_DEVICES", frozenset({"cpu"}))
        yield device


class RecordedCopy:
    """A copy that is not done before it has to be.

    Args:
        tensors: Tensors to copy.
        sent: Their copies.
        calls: Log of calls.
    """

    def __init__(self, tensors: dict[str, Tensor], sent: dict[str, Tensor], calls: list[str]) -> None:
        self._tensors, self._sent, self._calls = tensors, sent, calls
        self._is_done = False

    def wait(self) -> None:
        """Copy now, and note that the host waits, unless it was done."""
        if not self._is_done:
            self._calls.append("wait")
            self._copy()

    def receive(self) -> None:
        """Copy before the device uses it."""
        self._calls.append("receive")
        if not self._is_done:
            self._copy()

    def _copy(self) -> None:
        for name, tensor in self._tensors.items():
            self._sent[name].copy_(tensor)
        self._is_done = True


class RecordedGraph:
    """Operations of torch, to repeat on the same memory.

    Args:
        operations: The operations.
        calls: Log of calls.
    """

    def __init__(self, operations: list[tuple[Any, Any, Any, list[Tensor | None]]], calls: list[str]) -> None:
        self._operations = operations
        self._calls = calls

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat the operations; a result is copied to the memory of the result that was recorded."""
        self._calls.append("replay")
        for operation, args, kwargs, made in self._operations:
            for target, value in zip(made, tree_leaves(operation(*args, **kwargs)), strict=True):
                if target is not None:
                    target.copy_(value)


class _Refusing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_read(func, args) or func.overloadpacket.__name__ in _COPIES:
            raise RuntimeError(f"operation not permitted: {func.overloadpacket.__name__} waits for the device")
        return self.do(func, args, kwargs or {})

    def do(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)


class _Recorder(_Refusing):  # type: ignore[no-untyped-call]  # untyped in torch
    """Records operations, and the memory that they may change as it was before."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.operations: list[tuple[Any, Any, Any, list[Tensor | None]]] = []
        self._own: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def do(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        for tensor in tensors:  # all of them: not every operation declares what it writes to
            if _place(tensor) not in self._own:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._before.setdefault(_place(tensor), (whole, whole.clone()))
        given, result = set(map(_place, tensors)), func(*args, **kwargs)
        leaves = tree_leaves(result)
        made = [leaf if isinstance(leaf, Tensor) and _place(leaf) not in given else None for leaf in leaves]
        self._own.update(_place(tensor) for tensor in made if tensor is not None)
        self.operations.append((func, args, kwargs, made))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """Put memory back, and leave no number in the memory of the graph."""
        for whole, before in self._before.values():
            whole.copy_(before)
        for _, _, _, made in self.operations:
            for tensor in made:
                if tensor is not None and tensor.is_floating_point():
                    tensor.detach().fill_(float("nan"))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
