"""A data set whose worker leaves, or cannot send what it has, at one sample."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from noether.config.components import DatasetBaseConfig
from noether.data.dataset import Dataset

Action = Literal["exit 0", "exit 3", "killed", "sys.exit", "own", "unpicklable", "broken text", "unsendable", "exits"]


class OwnError(BaseException):
    """Not an `Exception`."""


class UnpicklableError(Exception):
    def __reduce__(self):
        raise SystemExit(5)


class NoTextError(Exception):
    def __str__(self):
        raise ZeroDivisionError

    def __reduce__(self):
        raise ZeroDivisionError


class Unsendable:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class LeavesConfig(DatasetBaseConfig):
    action: Action | None = Field(None, description="What happens at sample 11.")


class Leaves(Dataset):
    def __init__(self, dataset_config: LeavesConfig):
        super().__init__(dataset_config)
        self.action = dataset_config.action

    def __len__(self):
        return 24

    def __getitem__(self, index):
        sample = {"x": torch.ones(3), "y_target": torch.ones(2)}
        if index == 11 and self.action is not None:
            own = Path(f"left-{os.getpid()}.txt")
            own.write_text(str(time.time()))
            own.replace("left.txt")  # whole, also if another worker, which is ended now, was about to write it
            match self.action:
                case "exit 0":
                    os._exit(0)
                case "exit 3":
                    os._exit(3)
                case "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "sys.exit":
                    sys.exit(0)
                case "own":
                    raise OwnError("own words")
                case "unpicklable":
                    raise UnpicklableError("my words")
                case "broken text":
                    raise NoTextError
                case "unsendable":
                    sample["y_target"] = Unsendable(ValueError("no way to send it"))
                case "exits":
                    sample["y_target"] = Unsendable(SystemExit(5))
        return sample


class LongTexts(Dataset):
    """Batches that are longer than a pipe, whose worker is gone while it sends one."""

    def __init__(self, code: int = 0):
        super().__init__()
        self.code = code

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index >= 2 and torch.utils.data.get_worker_info().id == 0:
            os.kill(os.getpid(), signal.SIGKILL) if self.code < 0 else os._exit(self.code)
        return "x" * 1_000_000


def as_sent(samples):
    """Make a batch of samples, also of one that cannot be sent."""
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {name: v if any(isinstance(i, Unsendable) for i in v) else torch.stack(v) for name, v in columns.items()}
