"""`checkpoint`: begin with the weights of a file, a step or a run."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from noether.checkpoint.names import LATEST
from noether.core.initializers.weights import Weights, WeightsConfig, WeightsInitializer, read_weights
from noether.core.protocols import RunningTrainer


class CheckpointInitializerConfig(WeightsConfig):
    """Where the weights are, and which of them to load."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str = Field(
        examples=["pretrained/encoder.safetensors"],
        description="A .safetensors file, the folder of a step, or the folder of a run.",
    )
    checkpoint: str = Field(
        LATEST,
        examples=["best_model.loss/test/total"],
        description="Which checkpoint, where `path` is a run's folder: latest, last, best_model.<metric>, E…_U…_S….",
    )


class CheckpointInitializer(WeightsInitializer):
    """Loads weights and nothing else; optimizer, counters and callbacks begin anew.

    ```toml
    [initializer]
    kind = "checkpoint"
    path = "pretrained/encoder.safetensors"
    rename = { "backbone" = "encoder" }      # backbone.0.weight → encoder.0.weight
    exclude = ["head.*"]                     # stays as the seed made it
    ```

    What was loaded, and what was not, is told in one line. With `strict`, the default, a tensor that is missing, left
    over or of another shape is an error; `strict = false` loads what fits.

    Args:
        initializer_config: Where the weights are.
    """

    def __init__(self, initializer_config: CheckpointInitializerConfig) -> None:
        super().__init__(initializer_config)
        self.path, self.checkpoint = Path(initializer_config.path), initializer_config.checkpoint

    def read(self, trainer: RunningTrainer) -> Weights:
        """Return the weights of the file, or of the checkpoint."""
        return read_weights(self.path, self.checkpoint)
