"""Callbacks that others own; a spec names them by dotted path."""

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

from noether.core.callbacks import PeriodicCallback, PeriodicDataIteratorCallback
from noether.core.utils.training import UpdateCounter


class Child(PeriodicCallback):
    """Logs the sum of the weights that it sees, and notes its hooks."""

    notes: ClassVar[list[tuple[str, int]]] = []

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        self.note("before_training", update_counter)

    def periodic_callback(self, *, interval_type: str, update_counter: UpdateCounter, **_: Any) -> None:
        self.note(interval_type, update_counter)

    def after_training(self, *, update_counter: UpdateCounter) -> None:
        self.note("after_training", update_counter)

    def note(self, hook: str, update_counter: UpdateCounter) -> None:
        self.notes.append((hook, update_counter.update))
        self.writer.add_scalar(f"weights/{hook}", weights(self.model.parameters()))


class GoesThroughData(PeriodicDataIteratorCallback):
    """Logs the number of samples of its data set."""

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: Any) -> Tensor:
        return batch["x"]

    def process_results(self, results: Tensor, **_: Any) -> None:
        self.writer.add_scalar("samples", len(results))


def weights(parameters: Iterator[Tensor]) -> float:
    """Return the sum of all weights."""
    return sum(float(parameter.detach().double().sum()) for parameter in parameters)
