"""Callbacks that expose the inside of a run, or misbehave."""

import multiprocessing
import os
import random
import sys
import threading
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback


class DiaryConfig(CallBackBaseConfig):
    diary: str = Field("calls.txt", description="Where each call is noted, a line each.")


class Diary(PeriodicCallback):
    """Notes every call of every hook."""

    def __init__(self, callback_config: DiaryConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.diary = Path(callback_config.diary)

    def note(self, *words):
        with self.diary.open("a") as diary:
            diary.write(" ".join(map(str, words)) + "\n")

    def before_training(self, *, update_counter):
        self.note("before_training", update_counter.cur_iteration)

    def before_optimizer_step(self, *, update_counter):
        self.note("before_optimizer_step", update_counter.cur_iteration)

    def track_after_accumulation_step(self, *, update_counter, batch, losses, accumulation_steps, accumulation_step):
        samples, names = len(batch["x"]), ",".join(losses)
        self.note("track_after_accumulation_step", update_counter.cur_iteration)
        self.note(f"  {accumulation_step + 1} of {accumulation_steps}: {samples} samples, losses {names}")

    def track_after_update_step(self, *, update_counter, times):
        self.note("track_after_update_step", update_counter.cur_iteration)

    def periodic_callback(self, *, interval_type, update_counter, trainer_model):
        self.note(f"{self.id}: {interval_type}", update_counter.cur_iteration)

    def after_training(self, *, update_counter):
        self.note("after_training", update_counter.cur_iteration)

    def close(self):
        self.note("close")


class Moments(PeriodicCallback):
    """Notes when its interval fires, and logs the update."""

    def periodic_callback(self, *, interval_type, update_counter):
        with Path("calls.txt").open("a") as diary:
            diary.write(f"{self.id}: {interval_type} {update_counter.cur_iteration}\n")
        self.writer.add_scalar(self.id, update_counter.update)


class Gambler(PeriodicCallback):
    """Looks only, but draws from all global generators wherever it is called."""

    draws_every_update = True

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.draw()

    def draw(self, **_):
        random.random()
        np.random.rand()
        torch.rand(())

    def before_training(self, *, update_counter):
        self.draw()

    def before_optimizer_step(self, *, update_counter):
        self.draw()

    def track_after_accumulation_step(self, *, update_counter):
        self.draw()

    def track_after_update_step(self, *, update_counter):
        self.draw()

    def periodic_callback(self, *, update_counter):
        self.draw()

    def after_training(self, *, update_counter):
        self.draw()


class FailsConfig(CallBackBaseConfig):
    at_update: int = Field(3, description="Completed updates at which it fails.")
    logs: bool = Field(False, description="Whether it logs a metric before it fails.")


class Fails(PeriodicCallback):
    """Raises."""

    def __init__(self, callback_config: FailsConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.at_update, self.logs = callback_config.at_update, callback_config.logs

    def periodic_callback(self, *, update_counter):
        if update_counter.update == self.at_update:
            if self.logs:
                self.writer.add_scalar("last/words", 1.0)
            raise ZeroDivisionError("the lab is on fire")


class Scores(PeriodicCallback):
    """Logs the completed updates as a score, of which higher ones are better."""

    @classmethod
    def produced_metrics(cls, config, facts):
        return ("score/test",)

    @classmethod
    def metric_directions(cls, config):
        return {"score/*": "higher"}

    def periodic_callback(self, *, update_counter):
        self.writer.add_scalar("score/test", float(update_counter.update))


class SignalsConfig(CallBackBaseConfig):
    numbers: list[int] = Field(description="Signals to send, one after the other.")
    at_update: int = Field(3, description="Completed updates at which they are sent.")


class Signals(PeriodicCallback):
    """Sends signals to the run's own process."""

    def __init__(self, callback_config: SignalsConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.numbers, self.at_update = callback_config.numbers, callback_config.at_update

    def periodic_callback(self, *, update_counter):
        if update_counter.update == self.at_update:
            for number in self.numbers:
                os.kill(os.getpid(), number)


class GradientNorm(PeriodicCallback):
    """Logs the norm of the gradients as `before_optimizer_step` sees them."""

    def before_optimizer_step(self, *, model):
        self.norm = torch.stack([gradient.norm() for gradient in model.gradients()]).norm()

    def periodic_callback(self):
        self.writer.add_scalar("seen/grad_norm", self.norm)


class Workers(PeriodicCallback):
    """Logs how many processes the run has started, and how many batches each prepares ahead."""

    def periodic_callback(self):
        self.writer.add_scalar("workers", len(multiprocessing.active_children()))
        self.writer.add_scalar("prefetch", self.data_container.prefetch_factor or 2)


class LastWords(PeriodicCallback):
    """Logs when training is over."""

    def after_training(self):
        self.writer.add_scalar("last/words", 1.0)


class Batches(PeriodicCallback):
    """Records the content of each batch."""

    def track_after_accumulation_step(self, *, batch):
        with Path("batches.txt").open("a") as notes:
            notes.write(f"{batch['x'].tolist()}\n")


class FailsInConfig(CallBackBaseConfig):
    hook: str = Field(description="The method that raises.")


class FailsIn(PeriodicCallback):
    """Raises in a hook of choice."""

    def __init__(self, callback_config: FailsInConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.hook = callback_config.hook

    def fail(self, method):
        if self.hook == method:
            raise ZeroDivisionError("the lab is on fire")

    def before_training(self):
        self.fail("before_training")

    def track_after_accumulation_step(self):
        self.fail("track_after_accumulation_step")

    def periodic_callback(self):
        self.checkpoint_writer.save()

    def state_dict(self):
        self.fail("state_dict")

    def close(self):
        self.fail("close")


class Quits(PeriodicCallback):
    """Calls `sys.exit`, as careless code does."""

    def periodic_callback(self):
        sys.exit(7)


class SeesDtype(PeriodicDataIteratorCallback):
    """Logs whether evaluation runs in the precision of training."""

    def process_data(self, batch, *, trainer_model):
        return (trainer_model(x=batch["x"])["y"].dtype is torch.bfloat16) * 1.0

    def process_results(self, results, **_):
        self.writer.add_scalar("in_bfloat16", results.mean())


class Copies(PeriodicCallback):
    """Copies the weights when it is built, as an average of them does, and logs their sum."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.sum = sum(float(parameter.detach().sum()) for parameter in self.model.parameters())

    def periodic_callback(self):
        self.writer.add_scalar("copied", self.sum)


class Counts(PeriodicCallback):
    """Keeps a count, and notes the step that it goes on from."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]

    def resume_from_checkpoint(self, resumption_paths, model):
        with Path("calls.txt").open("a") as diary:
            diary.write(f"{self.id} resumes after {self.count} from {resumption_paths.checkpoint_folder.name}\n")

    def before_training(self, *, update_counter):
        with Path("calls.txt").open("a") as diary:
            diary.write(f"{self.id} begins at {update_counter.cur_iteration}\n")

    def periodic_callback(self):
        self.count += 1
        self.writer.add_scalar("count", self.count)


class LogsFromThread(PeriodicCallback):
    """Logs a line in a thread that it starts itself."""

    def periodic_callback(self):
        thread = threading.Thread(target=self.logger.info, args=("from a thread",))
        thread.start()
        thread.join()
