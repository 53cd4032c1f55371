"""`track-additional-outputs`: what `loss_compute` returns beside the loss, as metrics and as files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from noether.checkpoint.durable import replace_file, storage_error
from noether.checkpoint.tensor_file import encode_tensors
from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts, intervals_of
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
from noether.core.callbacks.precise import precise
from noether.errors import TrainingError
from noether.kernel.names import did_you_mean
from noether.kernel.progress import UpdateCounter


def write_outputs(path: Path, outputs: Mapping[str, Sequence[Tensor]]) -> None:
    """Write each output's tensors stacked by its name, or where shapes differ one by one as `name.0`, `name.1`, ….

    A file that is already there, from before a resume, is replaced at once.

    Args:
        path: The file; its folder is made.
        outputs: What each step brought, in order.

    Raises:
        StorageError: The disk refuses.
    """
    tensors: dict[str, Tensor] = {}
    for name, values in outputs.items():
        if len({value.shape for value in values}) == 1:
            tensors[name] = torch.stack(list(values))
        else:
            tensors |= {f"{name}.{step}": value for step, value in enumerate(values)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error
    replace_file(path, encode_tensors(tensors)[0])


T = TypeVar("T")

_READ_EVERY = 256  # steps that wait for the device's word at most, so that a long interval does not hold them all


class AppliedSteps(Generic[T]):
    """Holds what each accumulation step brought until it is known whether its update was applied.

    On the CPU the last step of an update says so. On an accelerator only the device knows; it is asked when somebody
    wants to know, or for many steps at once.
    """

    def __init__(self) -> None:
        self._under_way: list[T] = []
        self._unsure: list[tuple[T, Tensor]] = []

    def add(self, step: T, *, accumulation_steps: int, accumulation_step: int, applied: Tensor | None) -> list[T]:
        """Take what a step brought; return what is known to count by now, in order.

        Args:
            step: What it brought.
            accumulation_steps: Steps of its update.
            accumulation_step: Which of them it is, from 0.
            applied: Whether the update was applied, 1.0 or 0.0 on the device; None if it was.
        """
        if accumulation_step == 0:
            self._under_way = []  # where no last step came, the update was not applied
        self._under_way.append(step)
        if accumulation_step + 1 < accumulation_steps:
            return []
        update, self._under_way = self._under_way, []
        if applied is None:
            return [*self.settle(), *update]
        self._unsure += [(step, applied) for step in update]
        return self.settle() if len(self._unsure) >= _READ_EVERY else []

    def settle(self) -> list[T]:
        """Return what counts of the steps that only the device knew about, in order; one copy to the host."""
        if not self._unsure:
            return []
        unsure, self._unsure = self._unsure, []
        verdicts = torch.stack([applied for _, applied in unsure]).tolist()
        return [step for (step, _), applied in zip(unsure, verdicts, strict=True) if applied]


_FOLD = 256  # numbers kept before they become one tensor, so that a long interval does not hold one for each step


class TrackAdditionalOutputsCallbackConfig(CallBackBaseConfig):
    """Settings of the `track-additional-outputs` callback."""

    name: Literal["TrackAdditionalOutputsCallback"] = Field(
        "TrackAdditionalOutputsCallback", description="Name of the class."
    )
    keys: list[str] | None = Field(
        None, examples=[["surface_loss"]], description="Names of outputs to track; each has to be there in every step."
    )
    patterns: list[str] | None = Field(
        None, examples=[["_loss"]], description="Also track every output whose name contains one of these."
    )
    verbose: bool = Field(False, description="Whether the values are also printed.")
    reduce: Literal["mean", "last"] = Field(
        "mean", description="One number for an interval: the mean over all its accumulation steps, or the last step's."
    )
    log_output: bool = Field(True, description="Whether that number is logged as a metric.")
    save_output: bool = Field(
        False,
        description="Whether all values of an interval, as whole tensors, are written to a file in the run's folder.",
    )

    @model_validator(mode="after")
    def _tracks_something(self) -> TrackAdditionalOutputsCallbackConfig:
        if not self.keys and not self.patterns:
            raise ValueError('nothing to track: name outputs, as in keys = ["surface_loss"] or patterns = ["_loss"]')
        if not (self.log_output or self.save_output or self.verbose):
            raise ValueError("what is tracked goes nowhere: set log_output, save_output or verbose to true")
        return self


class TrackAdditionalOutputsCallback(PeriodicCallback):
    """Logs outputs of the train step as `{name}/{interval}`, such as `surface_loss/U50`.

    Outputs are what a trainer's `loss_compute` returns beside the losses: `return losses, {"surface_loss": …}`. Every
    accumulation step of an interval counts the same, unless its update was not applied, and of an output that is no
    scalar the mean over its elements counts. Values stay on their device until they are logged. A file holds each
    output by its name, shape `(steps, …)`, or where shapes differ between steps `name.0`, `name.1`, ….

    ```toml
    [[trainer.callbacks]]
    kind = "track-additional-outputs"
    every_n_updates = 50
    keys = ["surface_loss"]
    ```

    Args:
        callback_config: Interval, which outputs, and what becomes of them.
        **kwargs: What `PeriodicCallback` takes.

    Attributes:
        tracked_values: Values of the interval under way, by output.
    """

    def __init__(self, callback_config: TrackAdditionalOutputsCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.keys = list(callback_config.keys or [])
        self.patterns = list(callback_config.patterns or [])
        self.verbose = callback_config.verbose
        self.reduce = callback_config.reduce
        self.log_output = callback_config.log_output
        self.save_output = callback_config.save_output
        self.tracked_values: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._steps: AppliedSteps[dict[str, Tensor]] = AppliedSteps()
        self._returned: tuple[str, ...] = ()
        self._warned = False

    @classmethod
    def produced_metrics(cls, config: TrackAdditionalOutputsCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        names = [*(config.keys or ()), *(f"*{pattern}*" for pattern in config.patterns or ())]
        return tuple(_metric_key(name, intervals_of(config).short) for name in names) if config.log_output else ()

    @property
    def out(self) -> Path | None:
        """The folder of its files; None where it writes none."""
        outputs: Path = self.trainer.path_provider.outputs_path
        return outputs / self.id if self.save_output else None

    def track_after_accumulation_step(
        self,
        *,
        update_counter: UpdateCounter,
        update_outputs: Mapping[str, Tensor] | None,
        accumulation_steps: int = 1,
        accumulation_step: int = 0,
        **_: Any,
    ) -> None:
        """Keep the outputs of one accumulation step.

        Raises:
            TrainingError: One of `keys` is not among them.
        """
        outputs = update_outputs or {}
        self._returned = tuple(outputs)
        for key in self.keys:
            if key not in outputs:
                raise self._missing(key, outputs)
        selected = {
            name: self._own(torch.as_tensor(output).detach())
            for name, output in outputs.items()
            if name in self.keys or any(pattern in name for pattern in self.patterns)
        }
        known = self._steps.add(
            selected,
            accumulation_steps=accumulation_steps,
            accumulation_step=accumulation_step,
            applied=self.trainer.applied,
        )
        self._keep(known)

    def _missing(self, key: str, outputs: Mapping[str, Tensor]) -> TrainingError:
        who = f"callback '{self.id}' tracks the output {key!r}"
        if not outputs:
            return TrainingError(
                f"{who}, but the train step returned no outputs beside its losses",
                hint=f'let the trainer\'s loss_compute return a tuple: return losses, {{"{key}": …}}',
            )
        return TrainingError(
            f"{who}, which the train step did not return.{did_you_mean(key, outputs)} "
            f"It returned {', '.join(map(repr, outputs))}",
            hint="name in `keys` what every step returns; `patterns` may match nothing in some steps",
        )

    def _own(self, output: Tensor) -> Tensor:
        """Return no more of an output than will be used, as a copy: it may be a parameter, which updates change."""
        return output.clone() if self.save_output else _one_number(output)

    def _keep(self, steps: Iterable[dict[str, Tensor]]) -> None:
        for step in steps:
            for name, value in step.items():
                values = self.tracked_values[name]
                if self.reduce == "last" and not self.save_output:
                    values.clear()
                values.append(value)
                if not self.save_output and len(values) >= _FOLD and not values[-_FOLD].ndim:
                    values[-_FOLD:] = [torch.stack(values[-_FOLD:])]

    def periodic_callback(
        self, *, update_counter: UpdateCounter, interval_type: IntervalType = "update", **_: Any
    ) -> None:
        """Log and save what was tracked since the last time; in an evaluation nothing was.

        Raises:
            StorageError: The disk refuses a file.
        """
        self._keep(self._steps.settle())
        if not self.tracked_values:
            self._warn_once(interval_type)
        for name, values in self.tracked_values.items():
            if self.log_output or self.verbose:
                self._tell(_metric_key(name, self.intervals.short), self._reduced(values))
        if self.out is not None and self.tracked_values:
            write_outputs(self.out / f"{update_counter.cur_iteration}.safetensors", self.tracked_values)
        self.tracked_values.clear()

    def _warn_once(self, interval_type: IntervalType) -> None:
        """Tell of patterns that match nothing, which a typing error in them looks like."""
        if interval_type == "eval" or self._warned:
            return
        self._warned = True
        patterns, returned = ", ".join(map(repr, self.patterns)), ", ".join(map(repr, self._returned))
        self.logger.warning(
            "callback '%s' tracked nothing: no output's name contains one of its patterns %s; the last train step "
            "returned %s",
            self.id,
            patterns,
            returned or "no outputs beside its losses",
        )

    def _reduced(self, values: list[Tensor]) -> Tensor:
        if self.reduce == "last":
            return _one_number(values[-1])
        numbers = map(_one_number, values) if self.save_output else values
        return precise(torch.cat([number.reshape(-1) for number in numbers])).mean()

    def _tell(self, key: str, value: Tensor) -> None:
        if self.log_output:
            self.writer.add_scalar(key, value, logger=self.logger if self.verbose else None)
        else:
            self.logger.info("%s: %.6g", key, float(value))

    def state_dict(self) -> dict[str, Any] | None:
        """Return what was tracked in the interval that is under way."""
        self._keep(self._steps.settle())
        tracked = {name: list(values) for name, values in self.tracked_values.items()}
        return {"tracked": tracked} if tracked else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with an interval."""
        self.tracked_values.clear()
        for name, values in state_dict["tracked"].items():
            self.tracked_values[name] = [value.to(self.trainer.device) for value in values]


def _metric_key(name: str, interval: str) -> str:
    """Return the key of an output; a child that its parent calls has no interval to put after it."""
    return f"{name}/{interval}" if interval else name


def _one_number(output: Tensor) -> Tensor:
    """Return the mean over all elements, without waiting for the device; of a scalar, a copy."""
    if output.numel() == 1:
        return output.reshape(()).clone()
    return output.mean(dtype=torch.promote_types(output.dtype, torch.float32))
