"""`resume`: continue from a checkpoint of another run."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from noether.checkpoint.manifest import WEIGHTS
from noether.checkpoint.saved import LATEST, Checkpoint, SavedCheckpoint
from noether.checkpoint.state import CheckpointState
from noether.config.components import InitializerConfig
from noether.core.initializers.weights import (
    InitializerBase,
    checkpoints_of,
    is_checkpoint,
    run_below,
)
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.errors import CheckpointError


class ResumeInitializerConfig(InitializerConfig):
    """Config of the `resume` initializer: the run and its checkpoint."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)

    run_id: str | None = Field(
        None,
        examples=["airfoil-20260102-030405-ab12"],
        description="Name of the run folder below `output`. Give this or `path`.",
    )
    path: str | None = Field(
        None,
        examples=["elsewhere/runs/airfoil-20260102-030405-ab12"],
        description="Path of the run folder, or of one of its checkpoints.",
    )
    checkpoint: str = Field(
        LATEST,
        examples=["E2_U120_S3840"],
        description="Checkpoint of the run: latest, last, best_model.<metric>, E…_U…_S….",
    )

    @model_validator(mode="after")
    def _names_one_run(self) -> Self:
        if (self.run_id is None) == (self.path is None):
            found = "none" if self.run_id is None else "both"
            raise ValueError(f"no single run named: found {found} of run_id and path, expected exactly one")
        return self


class ResumeInitializer(InitializerBase):
    """Continue from a checkpoint of another run; the results are bit-identical to a run that never stopped.

    Weights, optimizers, gradient scaler, counters, states of callbacks, statistics of transforms and random generators
    are restored from the checkpoint.

    ```toml
    [initializer]
    kind = "resume"
    run_id = "airfoil-20260102-030405-ab12"
    checkpoint = "latest"
    ```

    A run with this initializer is a new run: its folder gets its own checkpoints and its own metrics file, which begins
    at the checkpoint, and its own spec sets the learning rate, the limit and the callbacks. The model, the optimizer
    class, the effective batch size and the size of the training set have to be the same, and the limit must not lie
    before the checkpoint. The state of a callback that the spec no longer names is ignored, and a callback without
    saved state starts fresh; both are reported.

    A `best-checkpoint` continues from the best *value* of the other run, whose best checkpoint stays in its own folder:
    this run has a checkpoint of that name only after a better value.
    """

    continues_a_run: ClassVar[bool] = True

    def __init__(self, initializer_config: ResumeInitializerConfig) -> None:
        super().__init__(initializer_config)
        self.run_id, self.checkpoint = initializer_config.run_id, initializer_config.checkpoint
        self.path = Path(initializer_config.path) if initializer_config.path is not None else None
        self._found: tuple[SavedCheckpoint, CheckpointState] | None = None  # from `check` to `initialize`

    def check(self, trainer: RunningTrainer) -> None:
        """Read the whole checkpoint, and let the trainer check that it can continue from it.

        Raises:
            CheckpointError: if the checkpoint does not exist, is damaged, or does not fit this run.
        """
        saved, state = self._read(trainer)
        trainer.check_state(saved, state)
        self._found = saved, state

    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Restore the whole state.

        Raises:
            CheckpointError: if the checkpoint does not exist, is damaged, or does not fit this run.
        """
        saved, state = self._found or self._read(trainer)
        self._found = None  # frees memory: it is as large as the model and its optimizer
        trainer.restore_state(model, saved, state)
        self.logger.info("continuing after %s from %s", saved.manifest.iteration, saved.folder)

    def _read(self, trainer: RunningTrainer) -> tuple[SavedCheckpoint, CheckpointState]:
        if self.path is not None and is_checkpoint(self.path):
            return _whole(Checkpoint(SavedCheckpoint.open(self.path.resolve())))
        run = self.path or run_below(trainer.path_provider.output_path, self.run_id or "")
        return checkpoints_of(run).load(self.checkpoint, _whole)


def _whole(found: Checkpoint) -> tuple[SavedCheckpoint, CheckpointState]:
    """Return a checkpoint with its whole state.

    Raises:
        CheckpointError: if its name stands for averaged weights, or it is damaged or a partial save.
    """
    if found.weights != WEIGHTS:
        raise CheckpointError(
            f"cannot resume from averages: found {found.weights} in {found.saved.folder}, expected a whole state",
            hint='resume from "latest", or begin a new run with the weights: initializer kind = "checkpoint" with '
            "`path` and the same name",
        )
    return found.saved, found.saved.state()
