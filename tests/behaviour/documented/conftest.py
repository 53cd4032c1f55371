"""Small real runs for the sentences of the reference: two epochs of six updates, built by hand."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.models.base import ModelBase
from noether.core.models.composite import CompositeModel
from noether.kernel.registry import Registry, use_registry
from noether.testing import make_callback, make_model, make_trainer
from noether.training.trainers import BaseTrainer


class AutoEncoder(CompositeModel):
    """Two parts with optimizers of their own."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.get_submodule("decoder")(x=self.get_submodule("encoder")(x=x)["y"])


def make_composite() -> AutoEncoder:
    return AutoEncoder(parts={"encoder": make_model(seed=1), "decoder": make_model(seed=2, in_features={"x": 2})})


class Workshop:
    """Makes trainers, each with a folder of its own, and trains with callbacks given as tables, classes or objects."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.trainers: list[BaseTrainer] = []

    def trainer(self, *callbacks: Any, **settings: Any) -> BaseTrainer:
        """Make a trainer; a callback is a table of a spec, or a class, or a class and the fields of its config."""
        trainer = make_trainer(self._folder / str(len(self.trainers)), **settings)
        self.trainers.append(trainer)

        def build(model: ModelBase, evaluation: bool = False) -> list[CallbackBase]:
            return [self.callback(callback, trainer, model) for callback in callbacks]

        if callbacks:
            trainer.get_user_callbacks = build  # type: ignore[method-assign]
        return trainer

    def callback(self, callback: Any, trainer: BaseTrainer | None = None, model: ModelBase | None = None) -> Any:
        """Build one callback by hand."""
        trainer, model = trainer or self.trainer(), model or make_model()
        if isinstance(callback, dict):
            built = make_callback(callback, trainer, model)
            built.id = callback.get("id", "")  # the run gives it one
            return built
        made, fields = callback if isinstance(callback, tuple) else (callback, {})
        arguments = trainer.callback_default_kwargs(model)
        if not issubclass(made, PeriodicCallback):
            return made(**arguments)
        config = fields if isinstance(fields, CallBackBaseConfig) else CallBackBaseConfig(**fields)
        return made(config, **arguments)

    def train(self, *callbacks: Any, model: ModelBase | None = None, **settings: Any) -> BaseTrainer:
        """Train a model with these callbacks, and return the trainer."""
        trainer = self.trainer(*callbacks, **settings)
        trainer.train(model or make_model())
        trainer.log_writer.close()
        return trainer

    @staticmethod
    def metrics(trainer: BaseTrainer) -> dict[int, dict[str, float]]:
        """Return the logged metrics by update."""
        path = trainer.path_provider.metrics_path
        lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
        return {line["update"]: line["metrics"] for line in lines}

    @staticmethod
    def checkpoints(trainer: BaseTrainer) -> dict[int, set[str]]:
        """Return the files of each checkpoint by its update, as the manifest lists them."""
        manifests = [json.loads((one / "manifest.json").read_text()) for one in trainer.checkpoint_writer.checkpoints]
        return {manifest["update"]: set(manifest["files"]) for manifest in manifests}


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """Makes trainers in the test's folder and closes their files in the end."""
    made = Workshop(tmp_path)
    yield made
    for trainer in made.trainers:
        trainer.log_writer.close()


@pytest.fixture
def composite() -> AutoEncoder:
    """A composite model of an encoder and a decoder."""
    return make_composite()


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module `children`, whose classes are kinds such as `children.Child`; no hook is noted yet."""
    folder = Path(__file__).parent
    monkeypatch.syspath_prepend(str(folder))
    with use_registry(Registry.installed(project_folders=[folder])):
        module = import_module("children")
        monkeypatch.setattr(module.Child, "notes", [])
        yield module
    sys.modules.pop("children", None)
