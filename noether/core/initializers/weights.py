"""Initialize weights from a file, a checkpoint or a run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from noether.checkpoint.manifest import NAME, WEIGHTS
from noether.checkpoint.names import Checkpoint, CheckpointNames
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.tensor_file import decode_tensors
from noether.checkpoint.untrusted import read_chosen
from noether.core.initializers.base import InitializerBase, InitializerConfig
from noether.core.models.base import ModelBase
from noether.core.models.weights import match_weights
from noether.core.protocols import RunningTrainer
from noether.core.utils.nearest import did_you_mean
from noether.errors import CheckpointError
from noether.optim.groups import matching


def is_step(path: Path) -> bool:
    """Whether `path` is a step folder."""
    return (path / NAME).is_file()


def steps_of(run: Path) -> CheckpointNames:
    """Return the checkpoints of a run by name.

    Args:
        run: The run's folder.

    Raises:
        CheckpointError: It is no run's folder.
    """
    checkpoints = PathProvider(run.parent, run.name).checkpoint_path
    if not checkpoints.is_dir():
        found = "has no checkpoints" if run.is_dir() else "does not exist"
        raise CheckpointError(
            f"{run} {found}; expected the folder of a run, or of a step",
            hint=f"a run's folder holds {checkpoints.name}/step-…; `noether run` prints where it is",
        )
    return CheckpointNames(checkpoints)


def run_below(output: Path, run_id: str) -> Path:
    """Return the folder of the run `run_id` below `output`.

    Raises:
        CheckpointError: There is none; the message lists those that exist.
    """
    runs = sorted(path.name for path in output.iterdir() if path.is_dir()) if output.is_dir() else []
    if run_id not in runs:
        raise CheckpointError(
            f"there is no run {run_id!r} in {output}.{did_you_mean(run_id, runs)}",
            hint=f"it has {', '.join(runs) or 'none'}; `output` in the spec says where runs are",
        )
    return output / run_id


_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors, and where they are from.

    Attributes:
        tensors: By the name that the checkpoint gives them.
        source: The file.
    """

    tensors: dict[str, Tensor]
    source: Path


def read_weights(path: Path, checkpoint: str) -> Weights:
    """Return the weights that `path` holds; nothing else of a checkpoint is read.

    Args:
        path: A `.safetensors` file, a step's folder, or a run's folder.
        checkpoint: Which checkpoint of the run, where `path` is a run's folder.

    Raises:
        CheckpointError: There are no weights, or they are damaged.
    """
    if path.is_dir():
        return _of_step(path) if is_step(path) else weights_of_run(path, checkpoint)
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist; expected a {_SUFFIX} file, the folder of a step or that of a run"
        )
    if path.suffix != _SUFFIX:
        raise CheckpointError(
            f"{path} is no {_SUFFIX} file; other formats can hold code, which is never run",
            hint="convert it once, where you trust it: safetensors.torch.save_file("
            f"torch.load({path.name!r}, weights_only=True), {path.with_suffix(_SUFFIX).name!r})",
        )
    return _of_file(path)


def weights_of_run(run: Path, checkpoint: str) -> Weights:
    """Return the weights of a run's checkpoint.

    Args:
        run: The run's folder.
        checkpoint: A name, as `CheckpointNames` knows them.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    return steps_of(run).load(checkpoint, _of_checkpoint)


def _of_checkpoint(found: Checkpoint) -> Weights:
    return Weights(found.tensors(), found.saved.folder / found.weights)


def _of_step(folder: Path) -> Weights:
    return _of_checkpoint(Checkpoint(SavedCheckpoint.open(folder), WEIGHTS))


def _of_file(path: Path) -> Weights:
    """Read a file; one that belongs to a step is checked against the step's manifest."""
    for folder in path.parents:
        if is_step(folder):
            name = path.relative_to(folder).as_posix()
            return Weights(SavedCheckpoint.open(folder).tensors(name), path)
    try:
        return Weights(decode_tensors(read_chosen(path), {}), path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


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
