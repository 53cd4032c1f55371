"""The wording of the errors of training, in one place; other tests look at types and facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from noether.config.components import CallBackBaseConfig
from noether.core.models.build import AdaptedModule
from noether.testing import make_callback, make_model, make_trainer
from noether.training.callbacks import METRICS
from noether.training.forms import restore_form
from noether.training.nonfinite import FiniteGuard
from noether.training.parallel import parallel_of
from noether.training.resume import blamed_on, restore_optimizers
from noether.training.trainers.config import BaseTrainerConfig, cut_update
from noether.training.trainers.torch_losses import is_per_point
from noether.training.trainers.types import TrainerResult, check_graph
from noether.training.update import Precision

BATCH = {"x": torch.zeros(2, 3), "y_target": torch.zeros(2, 2)}


def config(**settings: Any) -> Any:
    """Validate a config; raise its message without pydantic's text around it."""
    try:
        return BaseTrainerConfig[CallBackBaseConfig].model_validate({"effective_batch_size": 4, **settings})
    except ValidationError as error:
        raise ValueError("; ".join(found["msg"] for found in error.errors())) from None


def test_messages(golden: Any, tmp_path: Path) -> None:
    golden({**of_settings(tmp_path), **of_batches(tmp_path), **of_restored_states()})


def of_settings(folder: Path) -> dict[str, Any]:
    frozen = make_model(frozen=["*"]).freeze()
    return {
        "no limit": lambda: config(),
        "two limits": lambda: config(max_epochs=1, max_updates=1),
        "two intervals": lambda: config(max_epochs=1, log_every_n_epochs=1, log_every_n_updates=1),
        "a start after the end": lambda: make_trainer(folder / "a", start_at_epoch=3),
        "a batch that does not divide": lambda: cut_update(7, world_size=2),
        "accumulation that is not allowed": lambda: cut_update(8, max_batch_size=4, accumulate=False),
        "an unsupported precision": lambda: Precision("bf16", torch.device("meta")),
        "several ranks": lambda: parallel_of({"WORLD_SIZE": "2"}),
        "nothing to train": lambda: make_trainer(folder / "b").train(frozen),
        "layers without sizes": lambda: make_trainer(folder / "c").train(AdaptedModule(nn.LazyLinear(2), None)),
        "unfreezing without a run": lambda: make_trainer(folder / "d").unfreeze("*"),
        "a form that is not possible any more": lambda: resumed_in_another_form(folder),
        **of_closures(folder),
    }


def resumed_in_another_form(folder: Path) -> None:
    trainer = make_trainer(folder / "e", update="compiled", precision="bf16")
    trainer.prepare(make_model())
    restore_form(trainer, {"asked": "compiled", "form": "compiled", "shapes": []})


def of_closures(folder: Path) -> dict[str, Any]:
    """Settings that do not fit LBFGS."""

    def train(**settings: Any) -> Any:
        model = make_model(optimizer={"kind": "LBFGS"})
        return lambda: make_trainer(folder / "closures", **settings).train(model)

    return {
        "skipping and a closure": train(skip_nan_loss=True),
        "accumulation and a closure": train(max_batch_size=1),
    }


def of_batches(folder: Path) -> dict[str, Any]:
    trainer = make_trainer(folder)
    metrics = {"kind": "offline-metrics", "every_n_epochs": 1, "metrics": {"y": ["rmse"], "z": ["rmse"]}}
    callback = make_callback(metrics, trainer)

    def step(output: Any, batch: dict[str, torch.Tensor] = BATCH) -> Any:
        model = nn.Module()
        model.forward = lambda x: output  # type: ignore[method-assign]  # a model in one line
        return lambda: trainer.train_step(batch, model)

    def losses(value: Any) -> Any:
        return lambda: TrainerResult.of(value)

    return {
        "a property that a batch lacks": step({}, {"x": BATCH["x"]}),
        "properties that a batch lacks": lambda: trainer.forward({"y_target": BATCH["y_target"]}, nn.Identity()),
        "a tuple as output": step((1, 2)),
        "an output that is missing": step({"z": BATCH["y_target"]}),
        "an output of another shape": step({"y": torch.zeros(2, 1, 2)}),
        "no losses": losses({}),
        "a number as loss": losses({"a": 1.0}),
        "a loss for each sample": losses({"a": torch.zeros(2)}),
        "a loss of another type": losses({"a": torch.zeros(()), "b": {"c": torch.zeros(())}}),
        "a tuple of losses": losses((torch.zeros(()), torch.zeros(()))),
        "a loss without a graph": lambda: check_graph(TrainerResult.of({"a": torch.zeros(())})),
        "an output that is None": step({"y": None}),
        "a mask that is not boolean": lambda: is_per_point(BATCH["x"], BATCH["x"]),
        "a loss named total": losses({"total": torch.zeros(()), "a": torch.zeros(())}),
        "a prediction of another shape": lambda: METRICS["mae"].sums(torch.zeros(4, 1), torch.zeros(4)),
        "a metric without an output": lambda: callback.process_data(BATCH, trainer_model=make_model()),
        "one output for two metrics": lambda: callback._sums("y", ["rmse"], BATCH["x"], BATCH),
        "losses that are not finite": lambda: guard(in_a_row=1, skip=False).raise_if_given_up(7, None),
        "too many in a row": lambda: guard(in_a_row=3, skip=True).raise_if_given_up(13, "step-10"),
    }


def guard(*, in_a_row: int, skip: bool) -> FiniteGuard:
    found = FiniteGuard(skip=skip, max_in_a_row=in_a_row)
    found.count_from(in_a_row)
    return found


def of_restored_states() -> dict[str, Any]:
    model = make_model()
    model.initialize_optimizer(total_updates=4, updates_per_epoch=2)

    def restored(error: Exception) -> None:
        with blamed_on(Path("runs/a/checkpoints/step-3")):
            raise error

    return {
        "a state that does not fit": lambda: restored(KeyError("scale")),
        "optimizers of another model": lambda: restore_optimizers(model, {}, {"encoder": {}}),
    }
