"""The wording of the errors of configs, in one place; other tests look at types and facts."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from noether.config.base import component_of, construction_of
from noether.config.components import DatasetBaseConfig, ModelBaseConfig, OptimizerBaseConfig
from noether.config.discriminated import Discriminated, config_class_of
from noether.config.signature import config_from_signature
from noether.core.models.mlp import MLPConfig
from noether.kernel.entries import Entry
from noether.kernel.registry import Registry, use_registry


class Clashing(nn.Module):
    """A model with an option of the name of a field of every model."""

    def __init__(self, optimizer: int) -> None:
        super().__init__()


def construct(error: Exception) -> None:
    entry = Entry("model", "mlp", "noether.core.models.mlp:MLP", "noether-train", "1.2")
    with use_registry(Registry([entry])), construction_of(MLPConfig(kind="mlp")):
        raise error


def test_messages(golden: Any, annotated: ModuleType) -> None:
    golden(
        {
            "a config without a kind": lambda: component_of(DatasetBaseConfig()),
            "a constructor that fails": lambda: construct(KeyError("tanhh")),
            "a trainer without a config": lambda: config_class_of(annotated.WithoutOne, "trainer"),
            "a config of another role": lambda: config_class_of(annotated.OfAModel, "callback"),
            "a config without fields of its base class": lambda: config_class_of(annotated.OfAnotherBase, "callback"),
            "an annotation that is not a config": lambda: config_class_of(annotated.NoConfig, "callback"),
            "an annotation that cannot be evaluated": lambda: config_class_of(annotated.Hidden, "callback"),
            "a component for another field": lambda: Discriminated(MLPConfig).config_class("cnn"),
            "an option with the name of a field": lambda: config_from_signature(Clashing, ModelBaseConfig),
            "an unknown kind": lambda: Discriminated(OptimizerBaseConfig).config_class("AdmW"),
        }
    )
