"""One point in training, in epochs, updates and samples."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"E(\d+)_U(\d+)_S(\d+)")


@dataclass(frozen=True, slots=True)
class TrainingIteration:
    """A point in training, or a limit on it; a limit leaves the units that it does not bound at None."""

    epoch: int | None = None
    update: int | None = None
    sample: int | None = None

    def __str__(self) -> str:
        return f"E{self.epoch}_U{self.update}_S{self.sample}"

    @classmethod
    def parse(cls, text: str) -> TrainingIteration:
        """Read the text form `E1_U50_S3200` back.

        Raises:
            ValueError: `text` is not of that form.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"expected a training iteration such as E1_U50_S3200, found {text!r}")
        epoch, update, sample = (int(number) for number in match.groups())
        return cls(epoch, update, sample)
