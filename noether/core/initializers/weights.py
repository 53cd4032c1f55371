"""What the initializers that load weights have in common: which tensors go where, and what is said of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from noether.core.initializers.base import InitializerBase, InitializerConfig
from noether.core.initializers.weights_file import Weights
from noether.core.models.base import ModelBase
from noether.core.models.weights import match_weights
from noether.core.optim.matching import matching
from noether.core.protocols import RunningTrainer
from noether.errors import CheckpointError


class WeightsConfig(InitializerConfig):
    """Which of the tensors to load, and under which names."""

    rename: dict[str, str] = Field(
        default_factory=dict,
        examples=[{"backbone": "encoder"}],
        description="New beginnings of the checkpoint's names: `backbone` → `encoder` makes `backbone.0.weight` "
        "`encoder.0.weight`. A key stands for whole parts between dots, an empty one for every name; an empty value "
        "takes the part away; of several keys that fit, the longest counts.",
    )
    include: list[str] = Field(
        default_factory=list,
        examples=[["encoder.*"]],
        description="Patterns of the names in the model that are loaded; all if left out.",
    )
    exclude: list[str] = Field(
        default_factory=list,
        examples=[["head.*"]],
        description="Patterns of the names in the model that are not loaded, though included.",
    )
    strict: bool = Field(
        True,
        description="Whether every selected tensor of the model must be in the checkpoint in the same shape, and every "
        "one of the checkpoint in the model; otherwise what fits is loaded and the rest is reported.",
    )


class WeightsInitializer(InitializerBase):
    """Base of initializers that load weights and nothing else; a subclass says where they are.

    Args:
        initializer_config: Which of them to load.
    """

    def __init__(self, initializer_config: WeightsConfig) -> None:
        super().__init__(initializer_config)
        self.config = initializer_config

    @abstractmethod
    def read(self, trainer: RunningTrainer) -> Weights:
        """Return all weights that there are."""

    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Load the weights and tell what was loaded.

        Raises:
            CheckpointError: Nothing fits; or with `strict`, something does not.
            SpecError: A pattern matches nothing.
        """
        config = self.config
        weights = self.read(trainer)
        tensors = renamed(weights.tensors, config.rename)
        selected = _selected([*model.state_dict(), *tensors], config)
        match = match_weights(model, tensors, selected.__contains__)
        if config.strict:
            match.require_complete(
                str(weights.source),
                hint="`rename`, `include` and `exclude` say what goes where; strict = false loads what fits",
            )
        if not match.fitting:
            raise CheckpointError(
                match.report(str(weights.source)), hint="`rename` maps one model's names to another's"
            )
        match.load_into(model)
        self.logger.info("%s", match.report(str(weights.source)))


def renamed(tensors: Mapping[str, Tensor], rename: Mapping[str, str]) -> dict[str, Tensor]:
    """Return tensors under new names; see `WeightsConfig.rename`.

    Raises:
        CheckpointError: A key stands for nothing, or two tensors would get one name.
    """
    unused = set(rename)
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        keys = [key for key in rename if _begins(name, key)]
        unused.difference_update(keys)
        longest = max(keys, key=len, default=None)
        new = name if longest is None else _joined(rename[longest], name[len(longest) :].removeprefix("."))
        if new in result:
            raise CheckpointError(f"`rename` gives two tensors of the checkpoint the name {new!r}; one is {name!r}")
        result[new] = tensor
    if unused:
        raise CheckpointError(
            f"`rename` names {', '.join(map(repr, sorted(unused)))}, with which no tensor of the checkpoint begins",
            hint=f"they are named like {', '.join(list(tensors)[:4])}",
        )
    return result


def _begins(name: str, key: str) -> bool:
    """Whether the parts of `key` are the first parts of `name`."""
    return not key or name == key or name.startswith(f"{key}.")


def _joined(first: str, rest: str) -> str:
    return ".".join(part for part in (first, rest) if part)


def _selected(names: list[str], config: WeightsConfig) -> set[str]:
    """Return the names that the patterns leave; each pattern has to match one."""

    def matched(patterns: list[str], setting: str) -> set[str]:
        found: dict[str, Any] = dict.fromkeys(names)
        where = {"setting": f"initializer.{setting}", "of": "tensor of the model or the checkpoint"}
        return {name for pattern in patterns for name in matching(pattern, found, **where)}

    included = matched(config.include, "include") if config.include else set(names)
    return included - matched(config.exclude, "exclude")
