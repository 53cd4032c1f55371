"""A data set that records what is loaded, and callbacks that record what arrives: for tests of the data stream."""

import os
import random
import time
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from noether.config.components import CallBackBaseConfig, DatasetBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback
from noether.data.dataset import Dataset

LOADED, ARRIVED = Path("loaded.txt"), Path("arrived.txt")
TRAIN, TEST = 24, 10


def note(file: Path, line: str) -> None:
    """Append a line as a whole, also from several processes."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def loaded() -> list[tuple[str, int, int]]:
    """Return the split, index and process of every sample that was loaded so far."""
    lines = [line.split() for line in LOADED.read_text().splitlines()] if LOADED.exists() else []
    return [(split, int(index), int(process)) for split, index, process in lines]


def waited_for(condition) -> bool:
    """Return True if the condition becomes true within ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class TracedConfig(DatasetBaseConfig):
    split: Literal["train", "test"] = Field("train", description="Which part.")


class Traced(Dataset):
    """Numbered samples with noise; notes who loads them."""

    def __init__(self, dataset_config: TracedConfig):
        super().__init__(dataset_config)
        self.split = dataset_config.split

    def __len__(self):
        return TRAIN if self.split == "train" else TEST

    def __getitem__(self, index):
        note(LOADED, f"{self.split} {index} {os.getpid()}")
        x = torch.tensor([index / TRAIN, self.split == "test", 1.0]) + 0.01 * random.random()
        return {"x": x, "y_target": x[:2].clone(), "number": torch.tensor(index)}


class NotesTraining(PeriodicCallback):
    """Notes every training batch, bit for bit."""

    def track_after_accumulation_step(self, *, batch):
        note(ARRIVED, f"train {batch['number'].tolist()} {batch['x'].tolist()}")


class NotesPasses(PeriodicDataIteratorCallback):
    """Notes every batch of its passes, bit for bit."""

    def process_data(self, batch, *, trainer_model):
        held = {name: values.tolist() for name, values in batch.items()}
        note(ARRIVED, f"{self.id} {held}")
        return len(batch["x"])

    def process_results(self, results, *, interval_type, update_counter):
        note(ARRIVED, f"{self.id} {interval_type} {update_counter.cur_iteration} {results.tolist()}")


class ReadsOnce(NotesPasses):
    """Reads one batch of its pass and leaves the rest where it is."""

    def periodic_callback(self, *, interval_type, update_counter, data_iter, trainer_model, batch_size):
        tagged = next(data_iter)
        while tagged.tag != self.sampler_config.tag:
            tagged = next(data_iter)
        note(ARRIVED, f"{self.id} {interval_type} {tagged.batch['number'].tolist()}")


class ParentConfig(CallBackBaseConfig):
    dataset_keys: list[str] = Field(description="What its children go through.")


class Parent(PeriodicCallback):
    """Owns callbacks over data sets, and calls them when its interval fires."""

    def __init__(self, callback_config: ParentConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.children = []
        for key in callback_config.dataset_keys:
            config = PeriodicDataIteratorCallbackConfig(
                dataset_key=key, every_n_updates=self.every_n_updates, every_n_epochs=self.every_n_epochs, batch_size=4
            )
            child = NotesPasses(config, **kwargs)
            child.id = f"{self.id}/{key}"
            self.children.append(child)

    def get_children(self):
        return self.children

    def periodic_callback(self, *, interval_type, update_counter, data_iter, trainer_model, batch_size):
        for child in self.children:
            child.periodic_callback(
                interval_type=interval_type,
                update_counter=update_counter,
                data_iter=data_iter,
                trainer_model=trainer_model,
                batch_size=batch_size,
            )


class AheadConfig(PeriodicDataIteratorCallbackConfig):
    before: int = Field(description="Completed updates, before its interval fires, at which it looks.")


class LooksAhead(PeriodicDataIteratorCallback):
    """Logs whether its pass is being loaded before its interval fires, and later training while it evaluates."""

    def __init__(self, callback_config: AheadConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.before = callback_config.before
        self.updates = 0
        self.later_training = False

    def track_after_update_step(self):
        self.updates += 1
        if self.updates == self.before:
            requested = waited_for(lambda: any(split == "test" for split, *_ in loaded()))
            self.writer.add_scalar("evaluation_requested_early", requested)

    def process_data(self, batch, *, trainer_model):
        used = self.updates * len(batch["x"])
        self.later_training = waited_for(lambda: sum(split == "train" for split, *_ in loaded()) > used)
        return 0.0

    def process_results(self, results, **_):
        self.writer.add_scalar("training_requested_early", self.later_training)


class CountsAhead(PeriodicCallback):
    """Logs how many samples the workers have loaded once they have nothing more to do."""

    def periodic_callback(self):
        known = -1
        while len(by_workers := [sample for sample in loaded() if sample[2] != os.getpid()]) != known:
            known = len(by_workers)
            time.sleep(0.3)
        self.writer.add_scalar("loaded", known)
