"""The code of the plugin that `conftest.py` pretends is installed."""

from typing import Annotated, Any

from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.core.callbacks.periodic import PeriodicCallback


class AverageConfig(CallBackBaseConfig):
    eval_callbacks: list[Annotated[Any, Discriminated(CallBackBaseConfig)]] | None = None
    factor: float = 0.5


class AverageCallback(PeriodicCallback):
    def __init__(self, callback_config: AverageConfig, **kwargs: Any):
        super().__init__(callback_config, **kwargs)
