"""Callbacks with typing errors in their hooks."""

from noether.core.callbacks.periodic import PeriodicCallback


class Typo(PeriodicCallback):
    def after_trainning(self):
        pass

    def before_training(self, *, counter):
        pass
