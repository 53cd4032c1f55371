"""Evaluation passes: iterate over a data set, collect results in its order, show progress."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, islice, repeat
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.shards import Ranked
from noether.core.callbacks.display import PassBar
from noether.core.models.base import evaluating
from noether.data.collators import moved
from noether.data.container import DataContainer
from noether.data.loader import TrainingLoader, evaluation_pass
from noether.data.samplers import SamplerIntervalConfig, TaggedBatch
from noether.errors import TrainingError
from noether.optim.kernels import is_sharded


def put_together(results: Sequence[Any]) -> Any:
    """Return one result for all batches.

    Tensors are concatenated along their first dimension (scalars stacked), numbers become one tensor with one entry a
    batch, dicts, lists and tuples are joined item by item, and None stays None.

    Raises:
        TrainingError: if a batch returned another type, or batches returned results of different shapes.
    """
    shapes = sorted({_shape(result) for result in results})
    if len(shapes) > 1:
        raise TrainingError(f"process_data returned results that differ between batches: found {', '.join(shapes)}")
    first = results[0] if results else None
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(results)) if first.ndim else torch.stack(list(results))
    if isinstance(first, bool | int | float):
        floats = any(isinstance(result, float) for result in results)
        return torch.tensor(results, dtype=torch.float64 if floats else None)
    if isinstance(first, dict):
        return {key: put_together([result[key] for result in results]) for key in first}
    if isinstance(first, list | tuple):
        items = [put_together(item) for item in zip(*results, strict=True)]
        return type(first)(items) if isinstance(first, list) else tuple(items)
    raise TrainingError(
        f"process_data returned a {type(first).__name__}, which cannot be joined over batches",
        hint="return a tensor, a number, None, or a dict, list or tuple of these",
    )


def _shape(result: Any) -> str:
    """Describe the shape that all batches must share: the type, a dict's keys, the length of a list."""
    kind = "number" if isinstance(result, int | float) else type(result).__name__
    if isinstance(result, dict):
        return f"{kind} of {', '.join(sorted(map(repr, result)))}"
    return f"{kind} of {len(result)}" if isinstance(result, list | tuple) else kind


class _One:
    """The ranks of a run of one process."""

    rank, world = 0, 1

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def share(self, value: Any) -> Any:
        return value


_ONE = _One()


class DatasetPass:
    """One pass of one consumer: takes exactly its batches from the stream.

    Args:
        sampler_config: The consumer's request to the stream.
        batch_size: Samples a batch if the consumer has no batch size of its own.
        before_batch: Called before each batch; an exception from it ends the pass.
        name: Name of the pass on the terminal.
        parallel: The ranks of the run: the samples of a pass of its stream are divided among them.

    Attributes:
        data_time: Seconds spent waiting for batches.
        samples: Number of samples of the batch that is processed; 0 for one that does not come from the stream.
    """

    def __init__(
        self,
        sampler_config: SamplerIntervalConfig,
        *,
        batch_size: int,
        before_batch: Callable[[], object] | None = None,
        name: str = "",
        parallel: Ranked = _ONE,
    ) -> None:
        self.sampler_config = sampler_config
        self.batch_size = batch_size
        self._parallel = parallel
        self._place = {"rank": parallel.rank, "world_size": parallel.world}
        self._is_divided = True  # False for batches that every rank has whole
        self.before_batch = before_batch
        self.name = name
        self.data_time = 0.0
        self.samples = 0

    def collect(self, data_iter: Iterator[Any], model: torch.nn.Module, process: Callable[..., Any]) -> list[Any]:
        """Return the results of `process(batch, trainer_model=model)` for every batch, in the order of the data set.

        Each rank has those of all ranks: it processes its own part, and gets the others' through the CPU.
        The model is in evaluation mode meanwhile; afterwards each module has its own mode back, also after an error.
        """
        bar = PassBar(self.name, self.sampler_config.pass_length(self.batch_size, **self._place))
        batches = self._batches(data_iter, bar)
        with evaluating(model), closing(bar):
            if self._parallel.world > 1 and any(map(is_sharded, model.parameters())):
                own = self._in_step(batches, partial(process, trainer_model=model))
            else:
                own = [process(batch, trainer_model=model) for batch in batches]
        if self._parallel.world == 1 or not self._is_divided:
            return own
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        own = moved(own, torch.device("cpu"))
        if device.type != "cpu":
            torch.accelerator.synchronize(device)  # the copies did not wait
        found = self._parallel.gather(own)
        return [moved(result, device) for results in found for result in results]

    def _in_step(self, batches: Iterator[Any], process: Callable[[Any], Any]) -> list[Any]:
        """Return the results of the batches of this rank, with as many calls as on every other rank.

        The ranks gather a sharded model together, so one that has no batch left processes its last one again, or one
        of another rank if it has none at all; those results are dropped.
        """
        first = next(batches, None)
        if not self._is_divided:
            return [] if first is None else [process(batch) for batch in chain([first], batches)]
        ranks = range(self._parallel.world)
        lengths = [self.sampler_config.pass_length(self.batch_size, rank=r, world_size=len(ranks)) for r in ranks]
        batch = first
        if 0 in lengths:
            found = self._parallel.gather(None if first is None else moved(first, torch.device("cpu")))
            batch = first if first is not None else next((other for other in found if other is not None), None)
        own: list[Any] = []
        if first is not None:
            for batch in chain([first], batches):
                own.append(process(batch))
        for _ in range(max(lengths) - len(own)):
            process(batch)
        return own

    def _batches(self, data_iter: Iterator[Any], bar: PassBar) -> Iterator[Any]:
        """Yield the batches of this pass from the stream of the run, or all of an iterator of plain batches."""
        config, begun, data_iter = self.sampler_config, [], iter(data_iter)
        if config.pass_length(self.batch_size, **self._place):
            started = perf_counter()
            begun = list(islice(data_iter, 1))
            self.data_time += perf_counter() - started
        batches: Iterator[Any] = chain(begun, data_iter)
        lengths: Iterator[int] = repeat(0)
        self._is_divided = not begun or isinstance(begun[0], TaggedBatch)
        if self._is_divided:
            batches = evaluation_pass(batches, config, self.batch_size, **self._place)
            lengths = iter(config.batch_lengths(self.batch_size, **self._place))
        while True:
            started = perf_counter()
            batch = next(batches, None)
            self.data_time += perf_counter() - started
            if batch is None:
                return
            self.samples = next(lengths)
            if self.before_batch is not None:
                self.before_batch()
            yield batch
            bar.advance()


class EvaluationStream:
    """Deliver one pass for each consumer, at moments that no interval tells beforehand.

    The loader is built when it is first needed and kept, so that its workers start once.

    Args:
        data_container: The data sets.
        consumers: Return the requests of all consumers, in the order in which they read.
        device: The device that batches are for.
        parallel: The ranks of the run.
    """

    def __init__(
        self,
        data_container: DataContainer,
        consumers: Callable[[], Sequence[SamplerIntervalConfig]],
        *,
        device: torch.device,
        parallel: Ranked = _ONE,
    ) -> None:
        self._place: Any = {"rank": parallel.rank, "world_size": parallel.world}
        self._data_container = data_container
        self._consumers = consumers
        self._device = device
        self._loader: TrainingLoader | None = None
        self._batch_size = 0
        self._batches: Iterator[TaggedBatch] = iter(())

    def passes(self, batch_size: int) -> Iterator[TaggedBatch]:
        """Return the batches of all passes, from the beginning.

        Args:
            batch_size: Samples a batch for consumers without a batch size of their own.
        """
        consumers = self._consumers()
        if not consumers:
            return iter(())
        if self._loader is None or self._batch_size != batch_size:
            self.close()
            self._batch_size = batch_size
            self._loader = self._data_container.build_loader(
                consumers, batch_size=batch_size, evaluation=True, device=self._device, **self._place
            )
        self._batches = iter(self._loader)
        return self._batches

    def close(self) -> None:
        """Stop the workers, if there are any; the next passes start them again."""
        if isinstance(self._batches, Generator):
            self._batches.close()  # an error's traceback may hold it, and it holds the workers
        self._batches, self._loader = iter(()), None
