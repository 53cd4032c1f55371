"""Data sets of the project."""

import random
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from noether.config.components import DatasetBaseConfig
from noether.data.dataset import Dataset


class NoisyConfig(DatasetBaseConfig):
    split: Literal["train", "test"] = Field("train", description="Which part.")
    samples: int = Field(40, description="How many.")


class Noisy(Dataset):
    """Augments every sample with noise of all three generators."""

    def __init__(self, dataset_config: NoisyConfig):
        super().__init__(dataset_config)
        self.offset = 0.0 if dataset_config.split == "train" else 0.5
        self.samples = dataset_config.samples

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        clean = torch.tensor([index / 40, self.offset, 1.0])
        noise = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
        return {"x": clean + 0.1 * noise, "y_target": clean[:2]}


class Interrupted(Noisy):
    """Is interrupted while it is loaded, as by Ctrl-C."""

    def __init__(self, dataset_config: NoisyConfig):
        raise KeyboardInterrupt
