"""One pass over an evaluation data set, its batches taken from the run's only data stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from time import perf_counter
from typing import Any

import torch

from noether.core.callbacks.collected import put_together
from noether.core.callbacks.pass_bar import PassBar
from noether.core.models.modes import evaluating
from noether.data.samplers.interval import SamplerIntervalConfig
from noether.data.samplers.tagged import TaggedBatch
from noether.data.stream import evaluation_pass


class DatasetPass:
    """Takes exactly the batches of one consumer from the stream.

    Args:
        sampler_config: What the consumer has asked the stream for.
        batch_size: Samples a batch where the consumer has no batch size of its own.
        before_batch: Called before each batch; what it raises ends the pass.
        name: What a terminal calls it.
    """

    def __init__(
        self,
        sampler_config: SamplerIntervalConfig,
        *,
        batch_size: int,
        before_batch: Callable[[], object] | None = None,
        name: str = "",
    ) -> None:
        self.sampler_config = sampler_config
        self.batch_size = batch_size
        self.before_batch = before_batch
        self.name = name
        self.data_time = 0.0

    def collect(self, data_iter: Iterator[TaggedBatch], model: torch.nn.Module, process: Callable[..., Any]) -> Any:
        """Run `process(batch, trainer_model=model)` on every batch and put the results together.

        The model is in evaluation mode meanwhile; afterwards each module has its own mode back, also after an error.
        """
        bar = PassBar(self.name, self.sampler_config.pass_length(self.batch_size))
        with evaluating(model), closing(bar):
            return put_together([process(batch, trainer_model=model) for batch in self._batches(data_iter, bar)])

    def _batches(self, data_iter: Iterator[TaggedBatch], bar: PassBar) -> Iterator[Any]:
        batches = evaluation_pass(data_iter, self.sampler_config, self.batch_size)
        while True:
            started = perf_counter()
            batch = next(batches, None)
            self.data_time += perf_counter() - started
            if batch is None:
                return
            if self.before_batch is not None:
                self.before_batch()
            yield batch
            bar.advance()
