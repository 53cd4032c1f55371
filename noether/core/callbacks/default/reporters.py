"""Default reporters: progress, remaining time, learning rates, norms, and the size, time and memory of a run."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import TRAINING_LOSS, MetricFacts, is_evaluation
from noether.core.callbacks.base import OneShotCallback, logs
from noether.core.callbacks.display import LiveBar, NotebookBar, Pace, PlainLines, Readings, in_notebook, on_terminal
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.models.base import ModelBase
from noether.data.dataset import length_of
from noether.kernel.progress import UpdateCounter
from noether.optim.kernels import strided, total_norm, whole


class ProgressConfig(CallBackBaseConfig):
    """Config of the `progress` callback."""

    lines: int = Field(20, ge=1, description="Number of plain lines over the whole run, if there is no terminal.")


class ProgressDisplay(Protocol):
    """Display of the progress of a run."""

    def show(self, counter: UpdateCounter, readings: Callable[[], Readings], pace: Pace, *, is_last: bool) -> bool:
        """Show the current counts, rate and values; return False if it is too early for that."""

    def close(self) -> None:
        """Release the output."""


class ProgressCallback(PeriodicCallback):
    """Show epoch, update, rate, remaining time, the mean training loss since the last display, and evaluations.

    On a terminal and in a notebook that is a live bar with the last results of evaluations. Elsewhere it is a number of
    lines; the result of an evaluation stands in the first line after it.

    ```toml
    [[trainer.callbacks]]
    kind = "progress"
    every_n_updates = 10
    lines = 50
    ```
    """

    calls_model = False
    draws_in_rounds = False
    produced_metrics = logs()

    def __init__(self, callback_config: ProgressConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.lines = callback_config.lines
        self._written: list[Mapping[str, float]] = []  # lines of metrics since the last display
        self._note = self._written.append
        self._results: dict[str, float] = {}
        self._pace: Pace | None = None
        self._display: ProgressDisplay | None = None

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Open the display."""
        self._pace = Pace(update_counter)
        self.writer.on_written.append(self._note)
        if in_notebook():
            self._display = NotebookBar(update_counter)
        elif on_terminal():
            self._display = LiveBar(update_counter)
        else:
            self._display = PlainLines(self.logger, self.lines, update_counter)

    def periodic_callback(self, *, update_counter: UpdateCounter, **_: Any) -> None:
        """Update the display; the last time is left to `after_training`, when the last evaluation is known."""
        if not update_counter.is_finished:
            self._show(update_counter)

    def after_training(self, *, update_counter: UpdateCounter) -> None:
        """Show the end."""
        self._show(update_counter, is_last=True)

    def _show(self, counter: UpdateCounter, *, is_last: bool = False) -> None:
        if self._display is None or self._pace is None:
            return
        if self._display.show(counter, self._read, self._pace, is_last=is_last):
            self._written.clear()

    def close(self) -> None:
        """Close the display."""
        if self._display is not None:
            self._display.close()
            self._display = None
        if self._note in self.writer.on_written:
            self.writer.on_written.remove(self._note)

    def _read(self) -> Readings:
        """Return the mean training loss since the last display, else the last one, and the results of evaluations."""
        losses = [line[TRAINING_LOSS] for line in self._written if TRAINING_LOSS in line]
        new = {key: value for line in self._written for key, value in line.items() if is_evaluation(key)}
        self._results |= new
        training = sum(losses) / len(losses) if losses else self.writer.written_metrics.get(TRAINING_LOSS)
        return Readings(training, self._results, new)


class EtaCallback(PeriodicCallback):
    """Log `profiling/updates_per_second` and `profiling/remaining_seconds` of this session.

    ```toml
    [[trainer.callbacks]]
    kind = "eta"
    every_n_updates = 50
    ```
    """

    calls_model = False
    draws_in_rounds = False
    produced_metrics = logs("profiling/updates_per_second", "profiling/remaining_seconds")

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._pace: Pace | None = None

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Start measuring."""
        self._pace = Pace(update_counter)

    def periodic_callback(self, *, update_counter: UpdateCounter, **_: Any) -> None:
        """Log the rate and the remaining time."""
        if self._pace is None or (estimate := self._pace.estimate(update_counter)) is None:
            return
        rate, remaining = estimate
        self.writer.add_scalar("profiling/updates_per_second", rate)
        self.writer.add_scalar("profiling/remaining_seconds", remaining)


class LearningRateCallback(PeriodicCallback):
    """Log the learning rate of the last update as `optim/lr`, or as `optim/lr/{part}` for a composite model.

    ```toml
    [[trainer.callbacks]]
    kind = "lr"
    every_n_updates = 50
    ```
    """

    calls_model = False
    draws_in_rounds = False
    produced_metrics = logs("optim/lr", "optim/lr/*", "optim/grad_norm", "optim/grad_norm/*")

    def periodic_callback(self, **_: Any) -> None:
        """Log learning rates and gradient norms."""
        optimizers = self.model.optimizers()
        for name, optimizer in optimizers.items():
            self.writer.add_scalar("optim/lr" if len(optimizers) == 1 else f"optim/lr/{name}", optimizer.lr)
            if optimizer.last_grad_norm is not None:
                key = "optim/grad_norm" if len(optimizers) == 1 else f"optim/grad_norm/{name}"
                self.writer.add_scalar(key, optimizer.last_grad_norm)


class TrainingStabilityCallback(PeriodicCallback):
    """Log the gradient norm before clipping, the model norm and the scale of the gradient scaler.

    Keys are `stability/gradient_norm`, `stability/model_norm`, `stability/non_finite_gradients` and
    `stability/grad_scale`; the norms are Euclidean over all trainable parameters.

    ```toml
    [[trainer.callbacks]]
    kind = "training-stability"
    every_n_updates = 50
    ```
    """

    calls_model = False
    draws_in_rounds = False
    produced_metrics = logs(
        "stability/gradient_norm", "stability/model_norm", "stability/non_finite_gradients", "stability/grad_scale"
    )

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._due = -1
        self._seen: dict[str, Tensor] = {}

    def before_optimizer_step(self, *, update_counter: UpdateCounter, model: ModelBase) -> None:
        """Compute the norms in the update after which they are logged; they stay on the device."""
        if self._due <= update_counter.update:
            self._due = self.next_due_update(update_counter)
        if update_counter.update + 1 != self._due:
            return
        gradients = model.gradients()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._seen = {"gradient_norm": total_norm(gradients), "model_norm": total_norm(parameters)}
        counts = [(~strided(gradient).isfinite()).sum() for gradient in gradients]
        self._seen["non_finite_gradients"] = whole(torch.stack(counts).sum()) if counts else torch.tensor(0)

    def state_dict(self) -> dict[str, Any] | None:
        """Return norms that may not be logged yet."""
        return {"seen": dict(self._seen)} if self._seen else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore norms that may not be logged yet."""
        self._seen = dict(state_dict["seen"])

    def periodic_callback(self, **_: Any) -> None:
        """Log the norms of this update."""
        for name, value in self._seen.items():
            self.writer.add_scalar(f"stability/{name}", value)
        scale = self.trainer.precision.grad_scale
        if scale is not None:
            self.writer.add_scalar("stability/grad_scale", scale)


class DatasetStatsCallback(OneShotCallback):
    """Log `data/{key}/samples` of every data set once, before training.

    ```toml
    [[trainer.callbacks]]
    kind = "dataset-stats"
    ```
    """

    calls_model = False

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        return tuple(f"data/{key}/samples" for key in facts.dataset_keys)

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Log the number of samples of each data set."""
        keys = self.data_container.keys()
        sizes = {key: length_of(self.data_container.get_dataset(key)) for key in keys}
        for key, size in sizes.items():
            self.writer.add_scalar(f"data/{key}/samples", size)


class ParameterCountCallback(OneShotCallback):
    """Log `model/parameters` and `model/trainable_parameters` once, before training.

    ```toml
    [[trainer.callbacks]]
    kind = "param-count"
    ```
    """

    calls_model = False
    produced_metrics = logs("model/parameters", "model/trainable_parameters")

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Log the number of parameters."""
        parameters = list(self.model.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        self.writer.add_scalar("model/parameters", total)
        self.writer.add_scalar("model/trainable_parameters", trainable)


class TrainTimeCallback(PeriodicCallback):
    """Log the mean seconds of each part of an update over an interval, as `profiling/{part}`.

    The parts are `data_time`, `forward_time`, `backward_time` and `update_time`, and `checkpoint_wait` once training
    has waited for an asynchronous save. On an accelerator they measure the host, which runs ahead of the device. The
    trainer measures them in any case, so this callback adds no cost to an update.

    ```toml
    [[trainer.callbacks]]
    kind = "train-time"
    every_n_updates = 50
    ```
    """

    calls_model = False
    draws_in_rounds = False
    produced_metrics = logs(
        "profiling/data_time", "profiling/forward_time", "profiling/backward_time", "profiling/update_time"
    )

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._seconds: dict[str, float] = {}
        self._update = 0

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Remember the times before the first interval."""
        self._remember(update_counter)

    def _remember(self, update_counter: UpdateCounter) -> None:
        self._seconds = dict(self.trainer.seconds)
        self._update = update_counter.update

    def periodic_callback(self, *, update_counter: UpdateCounter, **_: Any) -> None:
        """Log the means and start a new interval."""
        updates, before = max(update_counter.update - self._update, 1), self._seconds
        for part, seconds in self.trainer.seconds.items():
            since = seconds - before[part] if part in before else seconds
            self.writer.add_scalar(f"profiling/{part}", since / updates)
        self._remember(update_counter)


_ASKED_AFTER = 0.05  # seconds; the kernel of some machines takes 40 µs to answer, as long as a small update
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere


class PeakMemoryCallback(PeriodicCallback):
    """Log `profiling/peak_memory_gib`: the peak of the device on an accelerator, of the process elsewhere, in GiB.

    ```toml
    [[trainer.callbacks]]
    kind = "peak-memory"
    every_n_epochs = 1
    ```
    """

    calls_model = False
    draws_in_rounds = False
    produced_metrics = logs("profiling/peak_memory_gib")

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._peak, self._asked_at = 0, -math.inf

    def periodic_callback(self, **_: Any) -> None:
        """Log the peak memory; that of the process as it was at most 50 ms ago."""
        if self.trainer.device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self.trainer.device)
        elif (now := monotonic()) - self._asked_at > _ASKED_AFTER:
            import resource  # POSIX only

            self._peak, self._asked_at = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT, now
        self.writer.add_scalar("profiling/peak_memory_gib", self._peak / 2**30)
