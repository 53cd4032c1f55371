"""Faults at a chosen point: in a hook of a callback, at a batch of an evaluation pass, at a sample."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors.torch import load_file

from noether.config.components import CallBackBaseConfig, DatasetBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback
from noether.data.dataset import Dataset

SIGNAL_AT = Path("signal-at.txt")
"""`<batches from now> <signal> …`: when, and which signals, the run sends itself; gone when it has done so."""


class Passes(PeriodicDataIteratorCallback):
    """Logs the mean output of the model; sends signals at a batch, counted over all such callbacks."""

    def process_data(self, batch, *, trainer_model):
        if SIGNAL_AT.exists():
            batches, *numbers = map(int, SIGNAL_AT.read_text().split())
            SIGNAL_AT.write_text(" ".join(map(str, (batches - 1, *numbers))))
            if batches == 1:
                SIGNAL_AT.unlink()
                for number in numbers:
                    os.kill(os.getpid(), number)
        return trainer_model(x=batch["x"])["y"].mean(dim=1)

    def process_results(self, results, **_):
        self.writer.add_scalar(f"mean/{self.data_name}", results.mean())


class Counts(PeriodicCallback):
    """Keeps a count of updates and one of rounds, the second in a file of tensors, and logs both."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.updates, self.rounds = {"count": 0}, torch.zeros(1)

    def track_after_update_step(self, *, update_counter):
        self.updates["count"] += 1
        self.writer.add_scalar("counted/updates", self.updates["count"])
        self.writer.add_table("counted/table", {"updates": [self.updates["count"]]})
        self.writer.add_histogram("counted/histogram", torch.arange(self.updates["count"] + 1.0), bins=2)
        if update_counter.update % 3 == 0:
            self.checkpoint_writer.save("third")

    def periodic_callback(self):
        self.updates["count"] += 100
        self.rounds += 1
        self.writer.add_scalar("counted/rounds", self.rounds)
        self.writer.add_nonscalar("counted/all", [self.updates["count"], self.rounds])

    def state_dict(self):
        return self.updates  # not a copy

    def load_state_dict(self, state_dict):
        self.updates = dict(state_dict)

    def state_files(self):
        return {"rounds": {"rounds": self.rounds}}

    def resume_from_checkpoint(self, resumption_paths, model):
        file = resumption_paths.checkpoint_folder / f"callbacks/{self.id}/rounds.safetensors"
        self.rounds = load_file(file)["rounds"]


class MuteError(Exception):
    def __str__(self):
        raise ValueError("no words")


@dataclass(frozen=True)
class FrozenError(Exception):
    words: str


class LocalError(Exception):
    def __reduce__(self):
        raise TypeError("stays here")


ODD_ERRORS = {
    "stop iteration": StopIteration,
    "stop async iteration": StopAsyncIteration,
    "generator exit": GeneratorExit,
    "mute": MuteError,
    "frozen": FrozenError("frozen words"),
    "not picklable": LocalError,
}


class FaultConfig(CallBackBaseConfig):
    hook: str = Field(description="The method that it happens in.")
    action: Literal[
        "raise",
        "no memory",
        "exit",
        "interrupt",
        "unheard of",
        "kill",
        "signal",
        "log nan",
        "hang",
        "spin",
        "deaf",
        *ODD_ERRORS,
    ] = Field("raise", description="What happens.")
    at_update: int | None = Field(None, description="Completed updates at which it happens; unset: always.")


class UnheardOf(BaseException):
    """An error that `except Exception` does not catch, as distributed checkpoints raise it."""


class Fault(PeriodicDataIteratorCallback):
    """Misbehaves in a chosen method."""

    def __init__(self, callback_config: FaultConfig, **kwargs):
        data = PeriodicDataIteratorCallbackConfig(
            **callback_config.model_dump(include={"every_n_epochs", "every_n_updates", "every_n_samples"}),
            dataset_key="test",
        )
        super().__init__(data, **kwargs)
        self.id = callback_config.id or self.id
        self.config = callback_config
        self.component = callback_config._component

    def maybe(self, method):
        at = self.config.at_update
        if self.config.hook == method and at in (None, self.trainer.update_counter.update):
            self.happen()

    def happen(self):
        match self.config.action:
            case "raise":
                raise ZeroDivisionError("the lab is on fire")
            case "no memory":
                raise MemoryError("the lab is full")
            case "exit":
                raise SystemExit(7)
            case "interrupt":
                raise KeyboardInterrupt
            case "unheard of":
                raise UnheardOf("of the lab")
            case odd if odd in ODD_ERRORS:
                raise ODD_ERRORS[odd]
            case "hang":
                time.sleep(600)
            case "spin":
                while True:
                    pass
            case "deaf":
                while True:
                    try:
                        time.sleep(600)
                    except BaseException:
                        continue
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            case "log nan":
                self.writer.add_scalar("not/finite", float("nan"))

    def before_training(self):
        self.maybe("before_training")

    def before_optimizer_step(self):
        self.maybe("before_optimizer_step")

    def track_after_accumulation_step(self):
        self.maybe("track_after_accumulation_step")

    def track_after_update_step(self):
        self.maybe("track_after_update_step")

    def after_update(self, update_counter, **kwargs):
        self.maybe("after_update")
        super().after_update(update_counter, **kwargs)

    def after_epoch(self, update_counter, **kwargs):
        self.maybe("after_epoch")
        super().after_epoch(update_counter, **kwargs)

    def periodic_callback(self, **kwargs):
        self.maybe("periodic_callback")
        super().periodic_callback(**kwargs)

    def process_data(self, batch, *, trainer_model):
        self.maybe("process_data")
        return trainer_model(x=batch["x"])["y"]

    def process_results(self, results, **_):
        self.maybe("process_results")

    def at_eval(self, update_counter, **kwargs):
        self.maybe("at_eval")
        super().at_eval(update_counter, **kwargs)

    def after_training(self):
        self.maybe("after_training")

    def state_dict(self):
        self.maybe("state_dict")
        return {"nothing": 0}

    def load_state_dict(self, state_dict):
        self.maybe("load_state_dict")

    def state_files(self):
        self.maybe("state_files")
        return {}

    def resume_from_checkpoint(self, resumption_paths, model):
        self.maybe("resume_from_checkpoint")

    def close(self):
        self.maybe("close")


class ClosesConfig(CallBackBaseConfig):
    needs_interval = False


class Closes(CallbackBase):
    """Notes that it was closed."""

    def __init__(self, callback_config: ClosesConfig, **kwargs):
        super().__init__(**kwargs)

    def close(self):
        with Path("closed.txt").open("a") as notes:
            notes.write("closed\n")


class BadSamplesConfig(DatasetBaseConfig):
    action: Literal["raise", "hang", "die", "none"] = Field("none", description="What loading a bad sample does.")
    bad: int = Field(20, description="Index of the bad sample.")
    unless: str = Field("", description="A file; where it is, all samples are good.")
    at_once: bool = Field(False, description="Whether batches are loaded at once.")


class BadSamples(Dataset):
    """Samples, one of which kills its worker; records the loading process."""

    def __init__(self, dataset_config: BadSamplesConfig):
        super().__init__(dataset_config)
        self.config = dataset_config
        if dataset_config.at_once:
            self.__class__ = BadBatches

    def __len__(self):
        return 48

    def __getitem__(self, index):
        if index == self.config.bad and not (self.config.unless and Path(self.config.unless).exists()):
            self.fail(index)
        return {"x": torch.full((3,), index / 48), "y_target": torch.full((2,), 1.0)}

    def fail(self, index):
        match self.config.action:
            case "raise":
                raise ArithmeticError(f"sample {index} cannot be computed")
            case "hang":
                Path("hanging.txt").write_text(str(os.getpid()))
                time.sleep(600)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)


class BadBatches(BadSamples):
    """The same for whole batches."""

    deterministic = True

    def __getitems__(self, indices):
        samples = [self[int(index)] for index in indices]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
