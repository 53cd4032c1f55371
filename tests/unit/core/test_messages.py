"""The wording of the errors of callbacks, initializers, models and trackers; other tests look at types and facts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from noether.core.callbacks.base import CallBackBaseConfig, explaining_gradients
from noether.core.callbacks.checkpoint.averages import (
    Average,
    FlatParameters,
    flattened,
    load_averages,
)
from noether.core.callbacks.checkpoint.saving import check_parts
from noether.core.callbacks.evaluation import put_together
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.initializers import ResumeInitializerConfig
from noether.core.initializers.weights import read_weights, renamed, run_below
from noether.core.models.agreement import require_same_names
from noether.core.models.build import recompute_matching
from noether.core.models.cnn import CNN, CNNConfig
from noether.core.models.composite import CompositeModel
from noether.core.models.mlp import MLP, MLPConfig
from noether.core.models.recompute import recompute
from noether.core.models.weights import LiveWeights, match_weights
from noether.core.trackers.mlflow.store import resolve_store
from noether.kernel.entries import Component
from noether.testing import make_callback, make_counter, make_model, make_trainer

CHECKPOINT = {"kind": "checkpoint", "every_n_epochs": 1}
LENGTH = {"total_updates": 4, "updates_per_epoch": 2}


def test_messages(golden: Any, tmp_path: Path) -> None:
    golden({**of_callbacks(tmp_path), **of_the_others(tmp_path)})


def plain(call: Callable[[], object]) -> Any:
    """Raise the messages of a config's validator without pydantic's text around them."""
    try:
        return call()
    except ValidationError as error:
        raise ValueError("; ".join(found["msg"] for found in error.errors())) from None


def average(**sizes: int) -> Average:
    return Average(LiveWeights(nn.ParameterDict({name: torch.ones(size) for name, size in sizes.items()})), 0.5)


class Uninitialised(PeriodicCallback):
    """Forgets its base class."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        """Do nothing."""


def own_kind(callback: type) -> CallBackBaseConfig:
    config = CallBackBaseConfig(kind="mine", every_n_epochs=1)
    config._component = Component("callback", "mine", callback, None)
    return config


def gradients_in_an_evaluation() -> None:
    with torch.no_grad(), explaining_gradients():
        torch.autograd.grad(make_model()(x=torch.ones(1, 3))["y"].sum(), torch.ones(1, 3, requires_grad=True))


def of_callbacks(tmp_path: Path) -> dict[str, Callable[[], object]]:
    trainer, model = make_trainer(tmp_path), make_model()
    half = list(nn.Linear(2, 2).to(torch.bfloat16).parameters())
    moved = FlatParameters(list(model.parameters()))
    list(model.parameters())[-1].data = torch.ones(2)
    ones = {"a": torch.ones(1)}
    parts = CompositeModel(parts={"encoder": make_model(), "decoder": make_model()})
    halves = torch.ones(4)
    sharing = nn.ParameterDict({"a": halves[:3], "b": halves[2:]})

    def callback(kind: str, **settings: Any) -> Any:
        return plain(lambda: make_callback({"kind": kind, **settings}, trainer))

    def tracks(outputs: dict[str, Any]) -> None:
        callback("track-additional-outputs", every_n_updates=1, keys=["loss"]).track_after_accumulation_step(
            update_counter=make_counter(), update_outputs=outputs
        )

    return {
        "a stopper without an end": lambda: callback("fixed-early-stopper"),
        "a stopper with two ends": lambda: callback("fixed-early-stopper", stop_at_epoch=1, stop_at_update=1),
        "a stopper with an interval": lambda: callback("fixed-early-stopper", stop_at_epoch=1, every_n_epochs=1),
        "no targets": lambda: callback("best-metric", every_n_epochs=1, source_metric_key="loss/test/total"),
        "no outputs": lambda: callback("track-additional-outputs", every_n_epochs=1),
        "unused outputs": lambda: callback("track-additional-outputs", every_n_epochs=1, keys=["a"], log_output=False),
        "no output returned": lambda: tracks({}),
        "another output returned": lambda: tracks({"los": torch.ones(())}),
        "nothing to save": lambda: callback(
            "checkpoint",
            every_n_epochs=1,
            **dict.fromkeys(("save_weights", "save_optim", "save_latest_weights", "save_latest_optim"), False),
        ),
        "unknown parts": lambda: check_parts(["head"], parts, callback(**CHECKPOINT)),
        "repeated factors": lambda: callback("ema", every_n_epochs=1, target_factors=[0.9, 0.9]),
        "a nested checkpoint callback": lambda: callback(
            "ema", every_n_epochs=1, target_factors=[0.9], eval_callbacks=[CHECKPOINT]
        ),
        "an unknown path": lambda: LiveWeights(model, "enc"),
        "flat parameters of half precision": lambda: FlatParameters(half),
        "flat parameters in the same memory": lambda: flattened(LiveWeights(sharing)),
        "parameters that left the buffer": moved.check,
        "averages of other weights": lambda: load_averages([average(b=1)], ones, "ema.safetensors"),
        "averages of another shape": lambda: load_averages([average(a=2)], ones, "ema.safetensors"),
        "a constructor that calls no other": lambda: make_callback(own_kind(Uninitialised), trainer),
        "gradients in an evaluation": gradients_in_an_evaluation,
        "results that differ": lambda: put_together([torch.ones(1), 1.0]),
        "results of a wrong type": lambda: put_together(["a"]),
    }


def of_the_others(tmp_path: Path) -> dict[str, Callable[[], object]]:
    (tmp_path / "run-1").mkdir()
    (tmp_path / "weights.pt").write_bytes(b"no")
    model, names = make_model(), {"a.x": torch.ones(1), "b.x": torch.ones(1)}
    loose = CompositeModel(parts={"encoder": make_model(), "decoder": make_model(optimizer=None)})
    loose.scale = nn.Parameter(torch.ones(()))
    return {
        "resume without a run": lambda: plain(lambda: ResumeInitializerConfig(kind="resume")),
        "resume with two runs": lambda: plain(
            lambda: ResumeInitializerConfig(kind="resume", run_id="a", path="runs/a")
        ),
        "an unknown run": lambda: run_below(tmp_path, "run-2"),
        "a path that does not exist": lambda: read_weights(tmp_path / "nowhere", "latest"),
        "a folder without checkpoints": lambda: read_weights(tmp_path / "run-1", "latest"),
        "a pickle": lambda: read_weights(tmp_path / "weights.pt", "latest"),
        "two tensors of one name": lambda: renamed(names, {"b": "a"}),
        "an unknown prefix": lambda: renamed(names, {"c": "a"}),
        "weights that do not fit": lambda: match_weights(model, names).require_complete(
            "weights.safetensors", hint="set strict = false"
        ),
        "a buffer of a forward pass": lambda: require_same_names(
            nn.BatchNorm1d(2), frozenset({"weight", "bias", "scale"}), "the forward pass"
        ),
        "no optimizer": lambda: make_model(optimizer=None).initialize_optimizer(**LENGTH),
        "a parameter of no part": lambda: loose.initialize_optimizer(**LENGTH),
        "no module of a pattern": lambda: recompute_matching(
            MLP(MLPConfig(kind="mlp", in_features={"x": 1}, out_features={"y": 1}, checkpoint=["layer.*"]))
        ),
        "a recomputed module that changes its input": lambda: repeated(nn.ReLU(inplace=True)),
        "a recomputed module within torch.func": lambda: torch.func.vmap(repeated(nn.GELU()))(torch.ones(2)),
        "wrong forward properties": lambda: CNN.check_inputs(NoProperties(), ["x"]),
        "properties that an mlp lacks": lambda: MLP(
            MLPConfig(kind="mlp", in_features={"a": 1}, out_features={"y": 1})
        ).check_inputs(["x"]),
        "an mlp without sizes": lambda: MLP(MLPConfig(kind="mlp")),
        "a cnn without sizes": lambda: CNN(CNNConfig(kind="cnn")),
        "no image": lambda: CNN.infer_sizes(CNNConfig(kind="cnn"), {"x": torch.zeros(3)}, {}),
        "a file store": lambda: resolve_store("file:./mlruns", {}, tmp_path),
        "an unknown store": lambda: resolve_store(None, {"MLFLOW_TRACKING_URI": "ftp://x"}, tmp_path),
    }


def repeated(module: nn.Module) -> nn.Module:
    """Return a module that is recomputed, after a first forward pass."""
    recompute(module, "blocks.0.act")
    module(torch.ones(2, requires_grad=True) * 2)
    return module


class NoProperties(MLP):
    """A model whose `forward` takes no properties."""

    def __init__(self) -> None:
        super().__init__(MLPConfig(kind="mlp", in_features={"x": 1}, out_features={"y": 1}))

    def forward(self) -> dict[str, torch.Tensor]:  # type: ignore[override]  # wrong on purpose
        return {}
