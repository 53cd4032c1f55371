"""The tiny problem that costs of an update are measured on: an MLP 8 -> 32 -> 1, 32 samples of float32, AdamW.

`noether run` with its default callbacks, and the same training as a user would write it by hand, on batches that lie
ready. `beside` lets both train in turns in one process and times them; `our_run` and `bare_run` are for exact counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import noether
from benchmarks.counting import Run
from benchmarks.timing import Timing, undisturbed
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.models.base import ModelBase
from noether.core.models.mlp import MLP, MLPConfig
from noether.data.dataset import InMemoryDataset
from noether.data.randomness import permutation
from noether.kernel.progress import UpdateCounter

SAMPLES, BATCH, SEED = 2048, 32, 0
LONGEST = 4000  # updates
PACKAGE = "benchmarks"


@cache
def arrays() -> dict[str, Tensor]:
    """Return the samples."""
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=(SAMPLES, n)).astype("float32") for name, n in (("x", 8), ("y_target", 1))}
    return {name: torch.from_numpy(array) for name, array in drawn.items()}


def write_data(folder: Path) -> None:
    """Write the samples into `train.npz` of a folder."""
    np.savez(folder / "train.npz", **{name: tensor.numpy() for name, tensor in arrays().items()})


@cache
def ready() -> list[dict[str, Tensor]]:
    """Return the batches of the longest run, in its order."""
    orders = (permutation(SAMPLES, SEED, epoch) for epoch in range(LONGEST * BATCH // SAMPLES + 1))
    batches = (indices for order in orders for indices in order.split(BATCH))
    return [{name: tensor[indices] for name, tensor in arrays().items()} for indices in batches]


class InMemory(InMemoryDataset):
    """Samples in memory."""

    def __init__(self) -> None:
        super().__init__(arrays())


class Ready(InMemoryDataset):
    """Batches that lie ready, in the order in which a run asks for them; others are gathered."""

    def __init__(self) -> None:
        super().__init__(arrays())
        self._left = iter(ready())

    def __getitems__(self, indices: Any) -> Any:
        return next(self._left) if indices.shape[0] == BATCH else super().__getitems__(indices)


def kind(component: type) -> str:
    """Return the `kind` of a class for a spec."""
    return f"{component.__module__}.{component.__qualname__}"


def spec(
    updates: int, *, dataset: type | None = None, model: Mapping[str, Any] | None = None, **trainer: Any
) -> dict[str, Any]:
    """Return the spec of a run; logging is out of the way unless `trainer` says otherwise.

    Args:
        updates: Updates of the run.
        dataset: Class of the samples; by default they are read from `train.npz`.
        model: Another model, without its optimizer.
        **trainer: Further settings of the trainer.
    """
    chosen = {"kind": "mlp", "hidden": [32]} if model is None else dict(model)
    return {
        "name": "bench",
        "seed": SEED,
        "threads": 1,
        "datasets": {"train": {"kind": kind(dataset)} if dataset else {"kind": "file", "path": "train.npz"}},
        "model": chosen | {"optimizer": {"kind": "AdamW", "decay_bias_and_norm": True}},
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": updates,
            "effective_batch_size": BATCH,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "log_every_n_updates": 10_000,
            "track_every_n_updates": 50,
        }
        | trainer,
        "trackers": [{"kind": "noop"}],
    }


def train(table: Mapping[str, Any]) -> Path:
    """Train a spec; return the folder of the run."""
    outcome = noether.run(dict(table), quiet=True, trust=[PACKAGE])
    assert outcome.error is None, outcome.error
    return outcome.run_dir


def mlp(layers: int = 1) -> ModelBase:
    """Return the model that the spec names, at its beginning."""
    return MLP(MLPConfig(kind="mlp", hidden=[32] * layers, in_features={"x": 8}, out_features={"y": 1}))


def bare_loop(
    make_model: Callable[[], nn.Module] = mlp, *, checks: bool = False, by_hand: bool = False, fused: bool = True
) -> Iterator[nn.Module]:
    """Train as a user would; yields the model before the first update, and after each.

    Args:
        make_model: Makes the model.
        checks: Look for numbers that are not finite as well.
        by_hand: Call the kernels of the optimizer, and release the gradients, without torch's wrappers.
        fused: Use the optimizer's fused kernel, which a run does; False is the loop of textbooks, with other roundings.
    """
    torch.manual_seed(SEED)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused or None)
    weights = list(model.parameters())
    found, one = torch.zeros(()), torch.ones(())
    kernel = None
    yield model
    for batch in ready():
        loss = nn.functional.mse_loss(model(x=batch["x"])["y"], batch["y_target"])
        loss.backward()
        if checks:
            gradients = [weight.grad for weight in weights]
            torch._amp_foreach_non_finite_check_and_unscale_([*gradients, loss.detach()], found, one)
            assert not found
        if kernel is None:
            optimizer.step()
            optimizer.zero_grad()
            kernel = _kernel_of(optimizer, weights) if by_hand else None
        else:
            kernel()
        yield model


def _kernel_of(optimizer: torch.optim.AdamW, weights: list[nn.Parameter]) -> Callable[[], None]:
    averages, squares, steps = (
        [optimizer.state[weight][entry] for weight in weights] for entry in ("exp_avg", "exp_avg_sq", "step")
    )
    (group,) = optimizer.param_groups
    options = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
    options["beta1"], options["beta2"] = group["betas"]
    ones = [torch.ones(())] * len(weights)

    def kernel() -> None:
        with torch.no_grad():
            torch._foreach_add_(steps, ones)
            gradients = [weight.grad for weight in weights]
            torch._fused_adamw_(weights, gradients, averages, squares, [], steps, **options)
        for weight in weights:
            weight.grad = None

    return kernel


# In turns


class Turns(PeriodicCallback):
    """Lets loops by hand do as many updates as the trainer has just done, and times all.

    It has no hook of every update: with one that is not built in, a compiled update looks at its guards each time.
    """

    calls_model = False
    draws_in_rounds = False

    loops: Mapping[str, Iterator[nn.Module]]
    seconds: dict[str, list[float]]
    turn = 1
    started = 0.0

    def before_training(self, **_: Any) -> None:
        type(self).started = thread_time()

    def periodic_callback(self, **_: Any) -> None:
        self.note("ours", self.started)
        with torch.enable_grad():
            for name, loop in self.loops.items():
                began = thread_time()
                for _ in range(self.turn):
                    next(loop)
                self.note(name, began)
        type(self).started = thread_time()

    def note(self, name: str, began: float) -> None:
        self.seconds[name].append((thread_time() - began) / self.turn)


def beside(
    loops: Mapping[str, Iterator[nn.Module]],
    *,
    turn: int,
    turns: int,
    callbacks: Sequence[Mapping[str, Any]] = (),
    **settings: Any,
) -> Timing:
    """Train in turns with loops by hand; return the seconds of an update, one value a turn.

    A loop whose optimizer has the fused kernel must end with the weights of the run, bit for bit; others within
    rounding. A loop whose name is `textbook` is one of those.

    Args:
        loops: The loops by hand, by name.
        turn: Updates of a turn.
        turns: Turns.
        callbacks: Callbacks of the run.
        **settings: Further arguments of `spec`.
    """
    Turns.loops, Turns.turn, Turns.seconds = loops, turn, {name: [] for name in ("ours", *loops)}
    models = {name: next(loop) for name, loop in loops.items()}
    with undisturbed():
        folder = train(
            spec(turn * turns, callbacks=[*callbacks, {"kind": kind(Turns), "every_n_updates": turn}], **settings)
        )
    weights = load_file(next((folder / "checkpoints").glob("step-*")) / "model.safetensors")
    for loop, model in models.items():
        roundings = {"rtol": 1e-3, "atol": 1e-4} if loop == "textbook" else {"rtol": 0.0, "atol": 0.0}
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(weights[name], tensor, **roundings, msg=f"{name} differs from the loop '{loop}'")
    return Timing({name: seconds[1:] for name, seconds in Turns.seconds.items()})


# For exact counts


class Probe(CallbackBase):
    """Calls a function after the updates that it waits for; its hook costs two calls an update, `PROBE`."""

    waits: Mapping[int, Callable[[], object]]

    def track_after_update_step(self, *, update_counter: UpdateCounter, times: Any) -> None:
        if update_counter.update in self.waits:
            self.waits[update_counter.update]()


PROBE = 2


def our_run(*, callbacks: Sequence[Mapping[str, Any]] = (), **options: Any) -> Run:
    """Return a function that trains with our loop; the options are those of `spec`."""

    def run(waits: Mapping[int, Callable[[], object]]) -> None:
        Probe.waits = waits
        train(spec(max(waits), callbacks=[*callbacks, {"kind": kind(Probe)}], **options))

    return run


def bare_run(make_model: Callable[[], nn.Module] = mlp, **options: bool) -> Run:
    """Return a function that trains by hand; the options are those of `bare_loop`."""

    def run(waits: Mapping[int, Callable[[], object]]) -> None:
        loop = bare_loop(make_model, **options)
        next(loop)
        for update in range(1, max(waits) + 1):
            next(loop)
            if update in waits:
                waits[update]()

    return run


DRAWN = 2
"""Calls an update that draw it from `bare_loop`, and belong to no loop that a user would write."""


class ManyTensors(nn.Module):
    """A linear map beside many single numbers, all of which get a gradient.

    Args:
        tensors: Number of parameters.
    """

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 1))
        self.others = nn.ParameterList(torch.zeros(1) for _ in range(tensors - 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = x @ self.weight
        return {"y": y + torch.cat(list(self.others)).sum() if len(self.others) else y}
