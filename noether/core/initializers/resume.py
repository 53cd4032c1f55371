"""`resume`: go on where another run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from noether.checkpoint.manifest import WEIGHTS
from noether.checkpoint.names import LATEST, Checkpoint
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import CheckpointState
from noether.core.initializers.base import InitializerBase, InitializerConfig
from noether.core.initializers.weights import is_step, run_below, steps_of
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.errors import CheckpointError


class ResumeInitializerConfig(InitializerConfig):
    """Which run, and from which of its checkpoints."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)

    run_id: str | None = Field(
        None,
        examples=["airfoil-20260102-030405-ab12"],
        description="The run: the name of its folder below `output`. Give this or `path`.",
    )
    path: str | None = Field(
        None,
        examples=["elsewhere/runs/airfoil-20260102-030405-ab12"],
        description="The folder of the run, or of one of its steps, wherever it is.",
    )
    checkpoint: str = Field(
        LATEST,
        examples=["E2_U120_S3840"],
        description="Which checkpoint of the run: latest, last, best_model.<metric>, E…_U…_S….",
    )

    @model_validator(mode="after")
    def _names_one_run(self) -> Self:
        if (self.run_id is None) == (self.path is None):
            raise ValueError("expected either run_id or path")
        return self


class ResumeInitializer(InitializerBase):
    """Continues a run from one of its checkpoints, bit by bit as if it had not stopped there.

    Weights, optimizers, gradient scaler, counters, states of callbacks, statistics of transforms and random generators
    are those of the checkpoint.

    ```toml
    [initializer]
    kind = "resume"
    run_id = "airfoil-20260102-030405-ab12"
    checkpoint = "latest"
    ```

    The run that has this in its spec is a run of its own: its folder gets its own steps and its own metrics file, which
    begins where it begins, and its spec decides: the learning rate, the limit and the callbacks are those that it says.
    The model, the class of the optimizer, the effective batch size and the size of the training set have to be the
    same, and the limit may not lie before the checkpoint. A state of a callback that the spec does not name any more is
    left alone, and a callback without a saved state begins anew; both are told.

    A `best-checkpoint` goes on from the best *value* of the other run, and its checkpoint stays there: until there is a
    better value, this run has none of that name.

    Args:
        initializer_config: Which run and checkpoint.
    """

    continues_a_run: ClassVar[bool] = True

    def __init__(self, initializer_config: ResumeInitializerConfig) -> None:
        super().__init__(initializer_config)
        self.run_id, self.checkpoint = initializer_config.run_id, initializer_config.checkpoint
        self.path = Path(initializer_config.path) if initializer_config.path is not None else None
        self._found: tuple[SavedCheckpoint, CheckpointState] | None = None  # from `check` to `initialize`

    def check(self, trainer: RunningTrainer) -> None:  # optional on purpose
        """Read the whole checkpoint, and ask the trainer whether it can go on from there.

        Raises:
            CheckpointError: There is no such checkpoint, it is damaged, or the run cannot go on from it.
        """
        step, state = self._read(trainer)
        trainer.check_state(step, state)
        self._found = step, state

    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Restore the whole state.

        Raises:
            CheckpointError: There is no such checkpoint, it is damaged, or it does not fit this run's model.
        """
        step, state = self._found or self._read(trainer)
        self._found = None  # as large as the model and its optimizer
        trainer.restore_state(model, step, state)
        self.logger.info("continuing after %s from %s", step.manifest.iteration, step.folder)

    def _read(self, trainer: RunningTrainer) -> tuple[SavedCheckpoint, CheckpointState]:
        if self.path is not None and is_step(self.path):
            return _whole(Checkpoint(SavedCheckpoint.open(self.path)))
        run = self.path or run_below(trainer.path_provider.output_path, self.run_id or "")
        return steps_of(run).load(self.checkpoint, _whole)


def _whole(found: Checkpoint) -> tuple[SavedCheckpoint, CheckpointState]:
    """Return the whole state of a step.

    Raises:
        CheckpointError: Its name stands for averaged weights, or it is damaged or a partial save.
    """
    if found.weights != WEIGHTS:
        raise CheckpointError(
            f"no run can go on from averaged weights, and the name stands for {found.weights} in {found.saved.folder}",
            hint='begin with them: initializer kind = "checkpoint" takes the same name, beside `path`; or resume from '
            "latest",
        )
    return found.saved, found.saved.state()
