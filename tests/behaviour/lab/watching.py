"""A callback that stores the weights that it sees."""

from noether.core.callbacks.periodic import PeriodicCallback


class Watch(PeriodicCallback):
    """Keeps the weights that it sees in each hook, by hook and update."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = {}

    def keep(self, hook, update_counter):
        self.seen[hook, update_counter.update] = {
            name: tensor.clone() for name, tensor in self.model.state_dict().items()
        }

    def before_training(self, *, update_counter):
        self.keep("before_training", update_counter)

    def track_after_update_step(self, *, update_counter):
        self.keep("track_after_update_step", update_counter)

    def periodic_callback(self, *, interval_type, update_counter):
        self.keep("periodic_callback", update_counter)

    def after_training(self, *, update_counter):
        self.keep("after_training", update_counter)
