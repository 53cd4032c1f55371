"""A callback that changes the model while it trains."""

from torch import nn

from noether.core.callbacks.periodic import PeriodicCallback


class Anneals(PeriodicCallback):
    """Changes the dropout of all layers after the fourth update, and takes that up when a run is resumed."""

    def before_training(self, *, update_counter):
        self.set_dropout(update_counter)

    def periodic_callback(self, *, interval_type, update_counter):
        self.set_dropout(update_counter)

    def set_dropout(self, counter):
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.2 if counter.update < 4 else 0.4
