"""Small components of each role, registered by `conftest.py` as if a package provided them."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.utils.data import Dataset

from noether.config.components import (
    CallBackBaseConfig,
    DatasetBaseConfig,
    ModelBaseConfig,
    PeriodicDataIteratorCallbackConfig,
    TrackerBaseConfig,
)
from noether.config.discriminated import Discriminated
from noether.core.callbacks.periodic import PeriodicCallback
from noether.metrics.tracker import BaseTracker
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.config import BaseTrainerConfig


class PointsConfig(DatasetBaseConfig):
    path_fields: ClassVar[tuple[str, ...]] = ("root", "extra")

    split: Literal["train", "test"] = "train"
    root: Path | None = None
    extra: list[str] = Field(default_factory=list)


class Points(Dataset):
    def __init__(self, dataset_config: PointsConfig):
        self.config = dataset_config


class Normalization(BaseModel):
    model_config = ConfigDict(extra="forbid")

    momentum: float = Field(0.1, gt=0, lt=1)


class NetConfig(ModelBaseConfig):
    hidden: int | list[int] = 8
    dropout: float = 0.0
    bias: bool = True
    activation: Literal["relu", "gelu"] = "relu"
    normalization: Normalization | None = None
    limits: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _dropout_needs_bias(self):
        if self.dropout and not self.bias:
            raise ValueError("dropout needs bias = true")
        return self


class Net(nn.Module):
    def __init__(self, model_config: NetConfig):
        super().__init__()


class GoalConfig(BaseTrainerConfig[CallBackBaseConfig]):
    loss_fn: Annotated[Any, Discriminated("loss")] = None


class Goal(BaseTrainer):
    def __init__(self, trainer_config: GoalConfig, **kwargs: Any):
        super().__init__(trainer_config, **kwargs)


class Note(PeriodicCallback):
    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any):
        super().__init__(callback_config, **kwargs)


class Pass(PeriodicCallback):
    def __init__(self, callback_config: PeriodicDataIteratorCallbackConfig, **kwargs: Any):
        super().__init__(callback_config, **kwargs)


class StopConfig(CallBackBaseConfig):
    needs_interval: ClassVar[bool] = False

    stop_at: int


class StopCallback(PeriodicCallback):
    def __init__(self, callback_config: StopConfig, **kwargs: Any):
        super().__init__(callback_config, **kwargs)


class AverageConfig(CallBackBaseConfig):
    name: Literal["AverageCallback"] | None = None
    eval_callbacks: list[Annotated[Any, Discriminated(CallBackBaseConfig)]] | None = None


class AverageCallback(PeriodicCallback):
    def __init__(self, callback_config: AverageConfig, **kwargs: Any):
        super().__init__(callback_config, **kwargs)


class BestConfig(AverageConfig):
    children_need_interval: ClassVar[bool] = False

    name: str | None = None


class BestCallback(PeriodicCallback):
    def __init__(self, callback_config: BestConfig, **kwargs: Any):
        super().__init__(callback_config, **kwargs)


class Journal(BaseTracker):
    def __init__(self, tracker_config: TrackerBaseConfig, **kwargs: Any):
        super().__init__(tracker_config, **kwargs)


def gap(input: Any, target: Any, delta: float = 1.0, weight: nn.Parameter | None = None) -> Any:
    return input - target
