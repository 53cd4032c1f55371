"""Which callbacks go through data sets, and a data stream of their own for those that the run's does not serve."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import torch

from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.data.container import DataContainer
from noether.data.loader import TrainingLoader
from noether.data.samplers.tagged import TaggedBatch


def iterator_callbacks(callbacks: Sequence[CallbackBase]) -> list[PeriodicDataIteratorCallback]:
    """Return those that go through data sets, children included, in the order of their calls."""
    found = []
    for callback in callbacks:
        if isinstance(callback, PeriodicDataIteratorCallback):
            found.append(callback)
        found += iterator_callbacks(callback.get_children())
    return found


class EvaluationStream:
    """Delivers one pass for each of some callbacks, at moments that no interval tells beforehand.

    The loader is built when it is first needed and kept, so that its workers are started once.

    Args:
        data_container: The data sets.
        callbacks: Who is called, in the order of the calls; their children's passes are delivered too.
        device: Where batches go to.
    """

    def __init__(
        self, data_container: DataContainer, callbacks: Sequence[CallbackBase], *, device: torch.device
    ) -> None:
        self.data_container = data_container
        self.callbacks = callbacks
        self.device = device
        self._loader: TrainingLoader | None = None
        self._batch_size = 0
        self._batches: Iterator[TaggedBatch] = iter(())

    def passes(self, batch_size: int) -> Iterator[TaggedBatch]:
        """Return the batches of all passes, from the beginning.

        Args:
            batch_size: Samples in a batch of those who have no batch size of their own.
        """
        consumers = [callback.sampler_config for callback in iterator_callbacks(self.callbacks)]
        if not consumers:
            return iter(())
        if self._loader is None or self._batch_size != batch_size:
            self.close()
            self._batch_size = batch_size
            self._loader = self.data_container.build_loader(
                consumers, batch_size=batch_size, evaluation=True, device=self.device
            )
        self._batches = iter(self._loader)
        return self._batches

    def close(self) -> None:
        """Stop the workers, where there are some; the next passes start them anew."""
        if isinstance(self._batches, Generator):
            self._batches.close()  # an error's traceback may hold it, and it holds the workers
        self._batches, self._loader = iter(()), None
