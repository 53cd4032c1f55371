"""A data set that hangs."""

import time

import torch


class Hangs(torch.utils.data.Dataset):
    def __init__(self, place: str = "sample", bad: int = 0, pause: float = 0.0):
        self.place, self.bad, self.pause = place, bad, pause
        if place == "constructor":
            time.sleep(600)

    def __len__(self):
        return 48

    def __getitem__(self, index):
        time.sleep(600 if self.place == "sample" and index == self.bad else self.pause)
        return {"x": torch.full((3,), index / 48), "y_target": torch.ones(2)}
