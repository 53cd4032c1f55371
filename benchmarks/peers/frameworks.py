"""One framework in one process: `python frameworks.py NAME SIZE` prints its figures as JSON.

Each trains as its documentation shows, on batches that lie ready. What the others do not do is switched off: progress
bars, checkpoints, clipping.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from work import SIZES, Paired, Size, make_model, make_optimizer


def fabric(size: Size) -> dict[str, float]:
    from lightning.fabric import Fabric

    engine = Fabric(accelerator="cpu", devices=1)
    engine.launch()
    plain = make_model(size)
    model, optimizer = engine.setup(plain, make_optimizer(plain))
    batches = Paired(size)
    for x, y in batches:
        loss = nn.functional.mse_loss(model(x), y)
        engine.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return batches.result(list(plain.parameters()))


def ignite_engine(size: Size) -> dict[str, float]:
    from ignite.engine import Engine

    model = make_model(size)
    optimizer = make_optimizer(model)

    def update(_engine: Engine, batch: Any) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    batches = Paired(size)
    Engine(update).run(batches, max_epochs=1)
    return batches.result(list(model.parameters()))


def ignite_supervised(size: Size) -> dict[str, float]:
    from ignite.engine import create_supervised_trainer

    model = make_model(size)
    engine = create_supervised_trainer(model, make_optimizer(model), nn.functional.mse_loss)
    batches = Paired(size)
    engine.run(batches, max_epochs=1)
    return batches.result(list(model.parameters()))


def lightning_barebones(size: Size) -> dict[str, float]:
    return _lightning(size, log=False, barebones=True)


def lightning_logging(size: Size) -> dict[str, float]:
    from lightning.pytorch.loggers import CSVLogger

    with tempfile.TemporaryDirectory() as folder:
        options = {"logger": CSVLogger(folder), "enable_progress_bar": False, "enable_checkpointing": False}
        return _lightning(size, log=True, enable_model_summary=False, **options)


def _lightning(size: Size, *, log: bool, **options: Any) -> dict[str, float]:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model(size)

        def training_step(self, batch: Any, _index: int) -> torch.Tensor:
            x, y = batch
            loss = nn.functional.mse_loss(self.model(x), y)
            if log:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(self)

    module, batches = Module(), Paired(size)
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=1, max_steps=size.updates, **options)
    trainer.fit(module, train_dataloaders=batches)
    return batches.result(list(module.parameters()))


def transformers(size: Size) -> dict[str, float]:
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model(size)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": nn.functional.mse_loss(self.model(x), y)}

    model, batches = Model(), Paired(size, as_dicts=True)

    class Ready(Trainer):
        def get_train_dataloader(self) -> Any:
            return batches

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=size.updates, per_device_train_batch_size=size.batch, use_cpu=True,
            report_to=[], save_strategy="no", logging_steps=50, disable_tqdm=True, max_grad_norm=0.0,
            lr_scheduler_type="constant", learning_rate=1e-3, remove_unused_columns=False,
        )  # fmt: skip
        optimizer = make_optimizer(model)
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        Ready(model, arguments, train_dataset=batches, optimizers=(optimizer, constant)).train()
    return batches.result(list(model.parameters()))


FRAMEWORKS: dict[str, Callable[[Size], dict[str, float]]] = {
    "Ignite, `Engine`": ignite_engine,
    "Ignite, supervised trainer": ignite_supervised,
    "Lightning Fabric": fabric,
    "Lightning, `barebones=True`": lightning_barebones,
    "Lightning, logging the loss": lightning_logging,
    "transformers, `Trainer`": transformers,
}


def main(name: str, size: str) -> None:
    """Measure one framework."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    standard, sys.stdout = sys.stdout, sys.stderr  # so that nothing but the figures is on standard output
    found = FRAMEWORKS[name](SIZES[size])
    print(json.dumps(found), file=standard)


if __name__ == "__main__":
    main(*sys.argv[1:])
