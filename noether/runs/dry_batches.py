"""One real batch through everything that will see batches, with errors that name shapes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback, iterator_callbacks
from noether.core.utils.training.counter import UpdateCounter
from noether.data.dataset import length_of
from noether.kernel.markers import hookimpl
from noether.runs.assemble import Run
from noether.runs.describe import describe
from noether.spec.configs import Path, configs_in
from noether.spec.model import RunSpec
from noether.spec.problem import Problem, quoted

_UPDATES = 2


class TwoUpdates:
    """A run plugin that ends training after two updates, and before that shows each evaluation callback one batch.

    Attributes:
        problems: What the evaluation callbacks could not do.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._run: Run | None = None
        self._last = _UPDATES

    @hookimpl
    def run_started(self, run: Any) -> None:
        """Learn which run it is."""
        self._run = run
        self._last = run.trainer.update_counter.update + _UPDATES

    @hookimpl
    def after_update(self, update_counter: UpdateCounter, trainer_model: torch.nn.Module) -> None:
        """Try what evaluates once training has prepared it, and stop."""
        if self._run is None or update_counter.update < min(self._last, update_counter.end_update):
            return
        self._run.trainer.request_stop("two updates are enough for a check")
        self.problems += _unprocessed(self._run, trainer_model)


def evaluation_problems(run: Run) -> list[Problem]:
    """Return the evaluation callbacks whose data set is empty."""
    paths = callback_paths(run.spec)
    problems = []
    for callback in iterator_callbacks(run.trainer.callbacks):
        key = callback.data_name
        if length_of(run.data.get_dataset(key)) == 0:
            message = f"the data set {quoted(key)} is empty, so '{callback.id}' has nothing to go through"
            problems.append(Problem(_field(paths, callback, "dataset_key"), message))
    return problems


def forward_problems(run: Run) -> list[Problem]:
    """Return why one batch of the training set does not go through model and loss; nothing where it does."""
    trainer = run.trainer
    if not trainer.total_training_updates:
        return []
    with _without_workers(run):
        tagged = next(iter(trainer.get_data_loader([], trainer.batch_size)))
    batch = trainer.to_device(tagged.batch)
    outputs: list[Any] = []
    seen = run.model.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        with torch.no_grad(), trainer.autocast(), _strict_about_shapes():
            trainer.train_step(batch, run.model)
    except Exception as error:
        parts = [f"one batch does not go through {'the loss' if outputs else 'the model'}: {describe(error)}"]
        parts.append(f"the batch has {_shapes(batch)}")
        parts += [f"the model returned {_shapes(output)}" for output in outputs]
        has_loss = outputs and hasattr(run.spec.trainer, "loss_fn")
        path: Path = ("trainer", "loss_fn") if has_loss else ("trainer",) if outputs else ("model",)
        return [Problem(path, "; ".join(parts), getattr(error, "hint", None))]
    finally:
        seen.remove()
    return []


def _unprocessed(run: Run, model: torch.nn.Module) -> Iterator[Problem]:
    paths = callback_paths(run.spec)
    was_training = model.training
    model.eval()
    try:
        for callback in iterator_callbacks(run.trainer.callbacks):
            batch: Any = {}
            try:
                batch = _first_batch(run, callback)
                with _strict_about_shapes():
                    callback.process_data(batch, trainer_model=model)
            except Exception as error:
                message = f"'{callback.id}' cannot use a batch of its data set: {describe(error)}"
                message += f"; the batch has {_shapes(batch)}" if batch else ""
                yield Problem(paths.get(callback.id, ()), message, getattr(error, "hint", None))
    finally:
        model.train(was_training)


def _first_batch(run: Run, callback: PeriodicDataIteratorCallback) -> Any:
    with _without_workers(run):
        loader = run.data.build_loader(
            [callback.sampler_config],
            batch_size=run.trainer.batch_size,
            evaluation=True,
            device=run.trainer.device,
        )
        return next(iter(loader)).batch


def callback_paths(spec: RunSpec) -> dict[str, Path]:
    """Return where in the spec each callback stands, by id."""
    return {
        config.id: path for path, config in configs_in(spec) if isinstance(config, CallBackBaseConfig) and config.id
    }


def _field(paths: Mapping[str, Path], callback: PeriodicDataIteratorCallback, field: str) -> Path:
    path = paths.get(callback.id, ())
    return (*path, field) if path and getattr(callback.callback_config, field) is not None else path


@contextmanager
def _without_workers(run: Run) -> Iterator[None]:
    """One batch is not worth the start of processes."""
    workers, run.data.num_workers = run.data.num_workers, 0
    try:
        yield
    finally:
        run.data.num_workers = workers


@contextmanager
def _strict_about_shapes() -> Iterator[None]:
    """Torch only warns where a loss compares every sample with every other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size")
        yield


def _shapes(value: Any) -> str:
    """Name shapes and types of tensors: `image (64, 1, 8, 8) float32`."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shapes(item)}" for name, item in value.items())
    return f"a {type(value).__name__}"
