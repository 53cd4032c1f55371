"""Callbacks that log chosen values, remembered values, or values that they observe."""

import multiprocessing

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback


class TellsConfig(CallBackBaseConfig):
    key: str = Field("loss/told", description="The metric.")
    values: list[float | str] = Field(description="Its values, one for each update; a spec holds no nan but as a text.")


class Tells(PeriodicCallback):
    """Logs a metric as its story goes."""

    def __init__(self, callback_config: TellsConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.key, self.values = callback_config.key, [float(value) for value in callback_config.values]

    @classmethod
    def produced_metrics(cls, config, facts):
        return (config.key,)

    def periodic_callback(self, *, update_counter):
        self.writer.add_scalar(self.key, self.values[update_counter.update - 1])


class Counts(PeriodicCallback):
    """Counts its calls."""

    calls = 0

    def periodic_callback(self):
        self.calls += 1

    def state_dict(self):
        return {"calls": self.calls}


class WorkerIds(PeriodicCallback):
    """Logs which processes the run has started, as one number."""

    def periodic_callback(self):
        self.writer.add_scalar("workers", sum(process.pid for process in multiprocessing.active_children()))


class Chokes(PeriodicDataIteratorCallback):
    """Raises at the first batch that it is given at update 3."""

    def process_data(self, batch, *, trainer_model):
        if self.trainer.update_counter.update == 3:
            raise ZeroDivisionError("the batch was too large to swallow")

    def process_results(self, results, **_):
        pass


class Histogram(PeriodicCallback):
    """Logs an array."""

    def periodic_callback(self, *, update_counter):
        self.writer.add_nonscalar("histogram/updates", [update_counter.update, 1, 2])


class AtTheEnd(PeriodicCallback):
    """Logs a metric after training."""

    def after_training(self, *, update_counter):
        self.writer.add_scalar("at/the/end", update_counter.update)
