"""`previous-run`: begin with the weights of another run of the same output folder."""

from __future__ import annotations

from pydantic import Field

from noether.checkpoint.names import LATEST
from noether.core.initializers.weights import Weights, WeightsConfig, WeightsInitializer, run_below, weights_of_run
from noether.core.protocols import RunningTrainer


class PreviousRunInitializerConfig(WeightsConfig):
    """Which run and checkpoint, and which of its weights to load."""

    run_id: str = Field(
        examples=["airfoil-20260102-030405-ab12"], description="The run: the name of its folder below `output`."
    )
    checkpoint: str = Field(
        LATEST,
        examples=["best_model.loss/test/total"],
        description="Which of its checkpoints: latest, last, best_model.<metric>, E…_U…_S….",
    )


class PreviousRunInitializer(WeightsInitializer):
    """Loads the weights of another run and nothing else; optimizer, counters and callbacks begin anew.

    ```toml
    [initializer]
    kind = "previous-run"
    run_id = "airfoil-20260102-030405-ab12"
    checkpoint = "best_model.loss/test/total"
    ```

    To go on with that run where it stopped, use `resume`; for weights from elsewhere, `checkpoint`.

    Args:
        initializer_config: Which run.
    """

    def __init__(self, initializer_config: PreviousRunInitializerConfig) -> None:
        super().__init__(initializer_config)
        self.run_id, self.checkpoint = initializer_config.run_id, initializer_config.checkpoint

    def read(self, trainer: RunningTrainer) -> Weights:
        """Return the weights of the run's checkpoint."""
        return weights_of_run(run_below(trainer.path_provider.output_path, self.run_id), self.checkpoint)
