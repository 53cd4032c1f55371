"""Callbacks and a run plugin that end training."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

import noether
from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.early_stoppers import FixedEarlyStopperCallback, FixedEarlyStopperCallbackConfig
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.callbacks.tree import NestedCallbacks
from noether.kernel.progress import EarlyStopIteration


class StopsInConfig(CallBackBaseConfig):
    hook: str = Field(description="The method that asks for the end.")
    at_update: int = Field(3, description="Completed updates at which it does.")
    reason: str = Field("enough", description="What it says.")


class StopsIn(PeriodicCallback):
    """Asks for the end of training in a hook of choice."""

    def __init__(self, callback_config: StopsInConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.config = callback_config

    def ask(self, hook, update_counter):
        if self.config.hook == hook and update_counter.update == self.config.at_update:
            raise EarlyStopIteration(self.config.reason)

    def before_training(self, *, update_counter):
        self.ask("before_training", update_counter)

    def before_optimizer_step(self, *, update_counter):
        self.ask("before_optimizer_step", update_counter)

    def track_after_accumulation_step(self, *, update_counter, accumulation_step):
        if accumulation_step == 0:
            self.ask("track_after_accumulation_step", update_counter)

    def track_after_update_step(self, *, update_counter):
        self.ask("track_after_update_step", update_counter)

    def periodic_callback(self, *, interval_type, update_counter):
        self.ask(interval_type, update_counter)


class Metric(PeriodicCallback):
    """Logs the values of the file `values.txt` as `loss/told`, one an interval."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.values = [float(value) for value in Path("values.txt").read_text().split()]

    @classmethod
    def produced_metrics(cls, config, facts):
        return ("loss/told",)

    def periodic_callback(self):
        self.writer.add_scalar("loss/told", self.values.pop(0))


class TwoSecondsAnUpdate(FixedEarlyStopperCallback):
    """Goes by a clock that moves with the updates."""

    def __init__(self, callback_config: FixedEarlyStopperCallbackConfig, **kwargs):
        super().__init__(callback_config, clock=lambda: 2.0 * self.trainer.update_counter.update, **kwargs)


class ParentConfig(CallBackBaseConfig):
    needs_interval: ClassVar[bool] = False
    callbacks: list[Annotated[Any, Discriminated(CallBackBaseConfig)]] = Field(description="Its children.")


class Parent(CallbackBase):
    """Calls its children after an update, and restores the weights that it changed for them."""

    passes_on = frozenset({"after_update", "after_epoch"})

    def __init__(self, callback_config: ParentConfig, **kwargs):
        super().__init__(**kwargs)
        self.children = NestedCallbacks(
            callback_config.callbacks, kwargs, passes_on=self.passes_on, metric_prefix="child/"
        )

    def nested(self):
        return [self.children]

    def after_update(self, update_counter, **arguments):
        try:
            self.children.call("after_update", {"update_counter": update_counter, **arguments})
        finally:
            self.writer.add_scalar("parent/restored", update_counter.update)


class Notes(PeriodicCallback):
    """Logs that it was called."""

    def periodic_callback(self, *, update_counter):
        self.writer.add_scalar("noted", update_counter.update)


@noether.hookimpl
def track_after_update_step(update_counter):
    if update_counter.update == 2:
        raise EarlyStopIteration("the plugin has seen enough")
