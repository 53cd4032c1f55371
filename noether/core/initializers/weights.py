"""InitializerBase, and the initializers that load weights: those of a file, a checkpoint or a run."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from pydantic import Field

from noether.checkpoint.manifest import NAME
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import LATEST, Checkpoint, CheckpointNames, SavedCheckpoint
from noether.checkpoint.state import decode_state
from noether.checkpoint.untrusted import read_chosen
from noether.config.components import InitializerConfig
from noether.core.models.base import ModelBase
from noether.core.models.weights import match_weights, reshape_buffers
from noether.core.protocols import RunningTrainer
from noether.errors import CheckpointError, placed
from noether.kernel.names import did_you_mean
from noether.optim.build import matching


class InitializerBase(ABC):
    """Base class of initializers.

    A spec names an initializer as `[initializer]` or as `initializer` under `[trainer]`; both mean the same.

    Args:
        initializer_config: Source of the state.

    Attributes:
        continues_a_run: True if it restores more than weights. It is then called after optimizers and callbacks are
            built; any other one before, so that callbacks that copy the weights copy the loaded ones.
    """

    continues_a_run: ClassVar[bool] = False

    def __init__(self, initializer_config: InitializerConfig) -> None:
        self.initializer_config = initializer_config

    @property
    def logger(self) -> logging.Logger:
        """Logger of this initializer's class."""
        return logging.getLogger(f"noether.initializers.{type(self).__name__}")

    def check(self, trainer: RunningTrainer) -> None:  # noqa: B027  # optional on purpose
        """Check that the state can be loaded, before the run writes anything; optional for weights alone.

        Raises:
            CheckpointError: if it cannot.
        """

    @abstractmethod
    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Load the state; called once, before training begins."""


class CalledOnce:
    """Initializers that a trainer has called: each once for a model, or the next training would undo the first."""

    def __init__(self) -> None:
        self._called: WeakKeyDictionary[ModelBase, set[InitializerBase]] = WeakKeyDictionary()

    def check_and_load(
        self,
        trainer: RunningTrainer,
        model: ModelBase,
        of_run: InitializerBase | None,
        of_trainer: InitializerBase | None,
    ) -> None:
        """Check initializers, and call those that load weights alone; None stands for no initializer."""
        places: dict[InitializerBase | None, tuple[str, ...]] = {of_trainer: ("trainer", "initializer")}
        places[of_run] = ("initializer",)
        for initializer, place in reversed(places.items()):
            if initializer is not None and initializer not in self._called.get(model, ()):
                with placed(*place):
                    initializer.check(trainer)
                    if not initializer.continues_a_run:
                        self.call(trainer, model, initializer)

    def call(self, trainer: RunningTrainer, model: ModelBase, initializer: InitializerBase) -> None:
        """Call an initializer, unless it was called for this model before."""
        called = self._called.setdefault(model, set())
        if initializer not in called:
            initializer.initialize(trainer, model)
            called.add(initializer)


def is_checkpoint(path: Path) -> bool:
    """Return True if `path` is the folder of a checkpoint."""
    return (path / NAME).is_file()


def checkpoints_of(run: Path) -> CheckpointNames:
    """Return the checkpoints of a run by name.

    Args:
        run: The run folder.

    Raises:
        CheckpointError: if the folder does not exist or has no checkpoints.
    """
    checkpoints = PathProvider(run.parent, run.name).checkpoint_path
    if not checkpoints.is_dir():
        found = "has no checkpoints" if run.is_dir() else "does not exist"
        raise CheckpointError(
            f"{run} {found}, expected a run folder or a checkpoint",
            hint=f"a run folder holds {checkpoints.name}/step-…; `noether run` prints its path",
        )
    return CheckpointNames(checkpoints)


def run_below(output: Path, run_id: str) -> Path:
    """Return the folder of the run `run_id` below `output`.

    Raises:
        CheckpointError: if it does not exist; the message lists the runs that do.
    """
    runs = sorted(path.name for path in output.iterdir() if path.is_dir()) if output.is_dir() else []
    if run_id not in runs:
        raise CheckpointError(
            f"unknown run in {output}: found {run_id!r}, expected an existing run.{did_you_mean(run_id, runs)}",
            hint=f"the existing runs are {', '.join(runs) or 'none'}; `output` in the spec sets the folder of runs",
        )
    return output / run_id


_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors and their source.

    Attributes:
        tensors: Tensors, and other values of a model's state, by their names in the checkpoint.
        source: The file.
    """

    tensors: dict[str, Any]
    source: Path


def read_weights(path: Path, checkpoint: str) -> Weights:
    """Return the weights in `path`; nothing else of a checkpoint is read.

    Args:
        path: A `.safetensors` file, a checkpoint, or a run folder.
        checkpoint: Name of the checkpoint, if `path` is a run folder.

    Raises:
        CheckpointError: if there are no weights, or they are damaged.
    """
    if path.is_dir():
        if is_checkpoint(path):
            return _of_checkpoint(Checkpoint(SavedCheckpoint.open(path.resolve())))
        return weights_of_run(path, checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, expected a {_SUFFIX} file, a checkpoint or a run folder")
    if path.suffix != _SUFFIX:
        raise CheckpointError(
            f"wrong format: found {path}, expected a {_SUFFIX} file; other formats can hold code, which is never run",
            hint="if you trust the file, convert it once: safetensors.torch.save_file("
            f"torch.load({path.name!r}, weights_only=True), {path.with_suffix(_SUFFIX).name!r})",
        )
    return _of_file(path)


def weights_of_run(run: Path, checkpoint: str) -> Weights:
    """Return the weights of a run's checkpoint.

    Args:
        run: The run folder.
        checkpoint: Name of the checkpoint; see `CheckpointNames`.

    Raises:
        CheckpointError: if the checkpoint does not exist or is damaged.
    """
    return checkpoints_of(run).load(checkpoint, _of_checkpoint)


def _of_checkpoint(found: Checkpoint) -> Weights:
    return Weights(found.tensors(), found.path)


def _of_file(path: Path) -> Weights:
    """Read a file; a file of a checkpoint is verified against the manifest."""
    for folder in path.parents:
        if is_checkpoint(folder):
            name = path.relative_to(folder).as_posix()
            return Weights(SavedCheckpoint.open(folder.resolve()).tensors(name), path)
    try:
        return Weights(decode_state(read_chosen(path), {}), path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


class WeightsConfig(InitializerConfig):
    """Config fields that select tensors and rename them."""

    rename: dict[str, str] = Field(
        default_factory=dict,
        examples=[{"backbone": "encoder"}],
        description="New prefixes of the checkpoint's names: `backbone` → `encoder` turns `backbone.0.weight` into "
        "`encoder.0.weight`. A key matches whole parts between dots; an empty key matches every name; an empty value "
        "removes the prefix; the longest matching key wins.",
    )
    include: list[str] = Field(
        default_factory=list,
        examples=[["encoder.*"]],
        description="Patterns of names in the model to load; unset: all.",
    )
    exclude: list[str] = Field(
        default_factory=list,
        examples=[["head.*"]],
        description="Patterns of names in the model not to load, even if included.",
    )
    strict: bool = Field(
        True,
        description="True to require the same selected tensors in model and checkpoint, in the same shapes; false to "
        "load matching tensors and report the rest.",
    )


class WeightsInitializer(InitializerBase):
    """Base class of initializers that load weights only; a subclass reads them."""

    def __init__(self, initializer_config: WeightsConfig) -> None:
        super().__init__(initializer_config)
        self.config = initializer_config

    @abstractmethod
    def read(self, trainer: RunningTrainer) -> Weights:
        """Return all weights of the source."""

    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Load the selected weights and log a report.

        Raises:
            CheckpointError: if no tensor fits, or with `strict`, if one does not.
            SpecError: if a pattern matches no name.
        """
        config = self.config
        weights = self.read(trainer)
        tensors = renamed(weights.tensors, config.rename)
        selected = _selected([*model.state_dict(), *tensors], config)
        if config.strict:
            wanted = {name: tensor for name, tensor in tensors.items() if name in selected}
            reshape_buffers(model, wanted, filled=False)
        match = match_weights(model, tensors, selected.__contains__)
        if config.strict:
            match.require_complete(
                str(weights.source),
                hint="map names with `rename`, `include` and `exclude`, or set strict = false to load matching tensors",
            )
        if not match.fitting:
            raise CheckpointError(
                match.report(str(weights.source)), hint="map the checkpoint's names to the model's with `rename`"
            )
        match.load_into(model)
        self.logger.info("%s", match.report(str(weights.source)))


class CheckpointInitializerConfig(WeightsConfig):
    """Config of the `checkpoint` initializer: source and selection of the weights."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str = Field(
        examples=["pretrained/encoder.safetensors"],
        description="A .safetensors file, a checkpoint, or a run folder.",
    )
    checkpoint: str = Field(
        LATEST,
        examples=["best_model.loss/test/total"],
        description="Checkpoint of the run, if `path` is a run folder: latest, last, best_model.<metric>, E…_U…_S….",
    )


class CheckpointInitializer(WeightsInitializer):
    """Load weights from a path; optimizer, counters and callbacks start fresh.

    ```toml
    [initializer]
    kind = "checkpoint"
    path = "pretrained/encoder.safetensors"
    rename = { "backbone" = "encoder" }      # backbone.0.weight → encoder.0.weight
    exclude = ["head.*"]                     # keeps its random weights
    ```

    One line of the log reports loaded, missing and unused tensors. With `strict`, the default, a missing tensor, an
    unused one or another shape is an error; `strict = false` loads matching tensors.
    """

    def __init__(self, initializer_config: CheckpointInitializerConfig) -> None:
        super().__init__(initializer_config)
        self.path, self.checkpoint = Path(initializer_config.path), initializer_config.checkpoint

    def read(self, trainer: RunningTrainer) -> Weights:
        """Return the weights of the file or checkpoint."""
        return read_weights(self.path, self.checkpoint)


class PreviousRunInitializerConfig(WeightsConfig):
    """Config of the `previous-run` initializer: the run, its checkpoint and the selection of weights."""

    run_id: str = Field(examples=["airfoil-20260102-030405-ab12"], description="Name of the run folder below `output`.")
    checkpoint: str = Field(
        LATEST,
        examples=["best_model.loss/test/total"],
        description="Checkpoint of the run: latest, last, best_model.<metric>, E…_U…_S….",
    )


class PreviousRunInitializer(WeightsInitializer):
    """Load the weights of another run; optimizer, counters and callbacks start fresh.

    ```toml
    [initializer]
    kind = "previous-run"
    run_id = "airfoil-20260102-030405-ab12"
    checkpoint = "best_model.loss/test/total"
    ```

    To continue that run, use `resume`; to load weights from another place, use `checkpoint`.
    """

    def __init__(self, initializer_config: PreviousRunInitializerConfig) -> None:
        super().__init__(initializer_config)
        self.run_id, self.checkpoint = initializer_config.run_id, initializer_config.checkpoint

    def read(self, trainer: RunningTrainer) -> Weights:
        """Return the weights of the run's checkpoint."""
        return weights_of_run(run_below(trainer.path_provider.output_path, self.run_id), self.checkpoint)


def renamed(tensors: Mapping[str, Any], rename: Mapping[str, str]) -> dict[str, Any]:
    """Return tensors under new names; see `WeightsConfig.rename`.

    Raises:
        CheckpointError: if a key matches no name, or two tensors would get one name.
    """
    unused = set(rename)
    result: dict[str, Any] = {}
    for name, tensor in tensors.items():
        keys = [key for key in rename if _begins(name, key)]
        unused.difference_update(keys)
        longest = max(keys, key=len, default=None)
        new = name if longest is None else _joined(rename[longest], name[len(longest) :].removeprefix("."))
        if new in result:
            raise CheckpointError(f"`rename` maps two tensors of the checkpoint to {new!r}; one is {name!r}")
        result[new] = tensor
    if unused:
        raise CheckpointError(
            f"unknown prefixes in `rename`: found {', '.join(map(repr, sorted(unused)))}, expected prefixes of the "
            "checkpoint's names",
            hint=f"the checkpoint has names such as {', '.join(list(tensors)[:4])}",
        )
    return result


def _begins(name: str, key: str) -> bool:
    """Return True if the dotted parts of `key` are the first parts of `name`."""
    return not key or name == key or name.startswith(f"{key}.")


def _joined(first: str, rest: str) -> str:
    return ".".join(part for part in (first, rest) if part)


def _selected(names: list[str], config: WeightsConfig) -> set[str]:
    """Return the names that the patterns select; each pattern has to match a name."""

    def matched(patterns: list[str], setting: str) -> set[str]:
        found: dict[str, Any] = dict.fromkeys(names)
        where = {"setting": f"initializer.{setting}", "of": "tensor of the model or the checkpoint"}
        return {name for pattern in patterns for name in matching(pattern, found, **where)}

    included = matched(config.include, "include") if config.include else set(names)
    return included - matched(config.exclude, "exclude")
