"""`track-additional-outputs`: outputs that `loss_compute` returns beside the losses, as metrics and files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from noether.checkpoint.durable import make_folders, replace_file, storage_error
from noether.checkpoint.tensor_file import encode_tensors
from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
from noether.core.callbacks.tracked import HOLD, AppliedSteps, precise
from noether.errors import TrainingError
from noether.kernel.names import did_you_mean
from noether.kernel.progress import UpdateCounter


def write_outputs(path: Path, outputs: Mapping[str, Sequence[Tensor]], *, run: Path | None = None) -> None:
    """Write each output as one stacked tensor, or as `name.0`, `name.1`, … if its shapes differ.

    A file from before a resume is replaced atomically.

    Args:
        path: The file; its folder is created.
        outputs: Tensors of each output, in the order of the accumulation steps.
        run: Run folder that it lies in, below which no part of the path may be a link.

    Raises:
        StorageError: if the disk refuses.
    """
    tensors: dict[str, Tensor] = {}
    for name, values in outputs.items():
        if len({value.shape for value in values}) == 1:
            tensors[name] = torch.stack(list(values))
        else:
            tensors |= {f"{name}.{index}": value for index, value in enumerate(values)}
    try:
        make_folders(path.parent, inside=run)
    except OSError as error:
        raise storage_error(error, path) from error
    replace_file(path, encode_tensors(tensors)[0], inside=run)


KIND = "track-additional-outputs"


class TrackAdditionalOutputsCallbackConfig(CallBackBaseConfig):
    """Config of the `track-additional-outputs` callback."""

    name: Literal["TrackAdditionalOutputsCallback"] = Field(
        "TrackAdditionalOutputsCallback", description="Name of the class."
    )
    keys: list[str] | None = Field(
        None,
        examples=[["surface_loss"]],
        description="Names of outputs to track; every accumulation step has to return them.",
    )
    patterns: list[str] | None = Field(
        None, examples=[["_loss"]], description="Also track every output whose name contains one of these."
    )
    verbose: bool = Field(False, description="True to also print the values.")
    reduce: Literal["mean", "last"] = Field(
        "mean",
        description="Number logged for an interval: the mean over accumulation steps, or the value of the last one.",
    )
    log_output: bool = Field(True, description="True to log that number as a metric.")
    save_output: bool = Field(
        False,
        description="True to write all values of an interval, as whole tensors, to a file in the run folder.",
    )

    @model_validator(mode="after")
    def _tracks_something(self) -> TrackAdditionalOutputsCallbackConfig:
        if not self.keys and not self.patterns:
            raise ValueError(
                'no outputs to track: found none, expected keys = ["surface_loss"] or patterns = ["_loss"]'
            )
        if not (self.log_output or self.save_output or self.verbose):
            raise ValueError("tracked outputs are not used: set log_output, save_output or verbose to true")
        return self


class TrackAdditionalOutputsCallback(PeriodicCallback):
    """Log outputs of the train step by their names, such as `surface_loss`; an id of the callback is added to the key.

    A trainer's `loss_compute` returns outputs beside the losses: `return losses, {"surface_loss": …}`. All accumulation
    steps of an interval have the same weight, except those of updates that were not applied, which do not count. An
    output that is not a scalar counts as the mean over its elements. Values stay on their device until they are logged.
    A file holds each output by its name, shape `(accumulation steps, …)`, or as `name.0`, `name.1`, … if shapes differ.

    ```toml
    [[trainer.callbacks]]
    kind = "track-additional-outputs"
    every_n_updates = 50
    keys = ["surface_loss"]
    ```

    Attributes:
        tracked_values: Values of the current interval, by output. If only the device knows which updates were applied,
            those of all updates, until a checkpoint asks.
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(self, callback_config: TrackAdditionalOutputsCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._suffix = _suffix(callback_config)
        self.keys = list(callback_config.keys or [])
        self.patterns = list(callback_config.patterns or [])
        self.verbose = callback_config.verbose
        self.reduce = callback_config.reduce
        self.log_output = callback_config.log_output
        self.save_output = callback_config.save_output
        self.tracked_values: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._steps: AppliedSteps[dict[str, Tensor]] = AppliedSteps()
        self._flags: dict[str, list[Tensor]] = {}  # 1.0 or 0.0 for each value of an output in masked updates
        self._returned: tuple[str, ...] = ()
        self._warned = False

    @classmethod
    def produced_metrics(cls, config: TrackAdditionalOutputsCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        names = [*(config.keys or ()), *(f"*{pattern}*" for pattern in config.patterns or ())]
        return tuple(name + _suffix(config) for name in names) if config.log_output else ()

    @property
    def out(self) -> Path | None:
        """Folder of its files; None if it writes none."""
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
            TrainingError: if an output named in `keys` is missing.
        """
        outputs = update_outputs or {}
        self._returned = tuple(outputs)
        for key in self.keys:
            if key not in outputs:
                raise self._missing(key, outputs)
        selected = {
            name: self._own(self._tensor(name, output))
            for name, output in outputs.items()
            if name in self.keys or any(pattern in name for pattern in self.patterns)
        }
        applied = self.trainer.verdict
        self._steps.add(
            selected, accumulation_steps=accumulation_steps, accumulation_step=accumulation_step, applied=applied
        )
        if not isinstance(applied, Tensor) or self._steps.held >= HOLD:
            self._take()

    def _tensor(self, name: str, output: Any) -> Tensor:
        try:
            return torch.as_tensor(output).detach()
        except (RuntimeError, TypeError, ValueError):
            raise TrainingError(
                f"callback '{self.id}': wrong type of the output {name!r}: found {type(output).__name__}, expected a "
                "tensor or a number",
                hint="return its parts under names of their own",
            ) from None

    def _missing(self, key: str, outputs: Mapping[str, Tensor]) -> TrainingError:
        place = f"callback '{self.id}': missing output {key!r}: the train step returned"
        if not outputs:
            return TrainingError(
                f"{place} no outputs beside its losses",
                hint=f'let the trainer\'s loss_compute return a tuple: return losses, {{"{key}": …}}',
            )
        return TrainingError(
            f"{place} {', '.join(map(repr, outputs))}.{did_you_mean(key, outputs)}",
            hint="list in `keys` outputs of every accumulation step; use `patterns` for outputs that may be missing",
        )

    def _own(self, output: Tensor) -> Tensor:
        """Return the part of an output that is used, as a copy: it may be a parameter, which updates change."""
        return output.clone() if self.save_output else _one_number(output)

    def _take(self) -> None:
        """Keep the values of complete updates; if only the device knows which were applied, with its flags."""
        if self.save_output:
            self._keep((values, None) for values in self._steps.read())
        else:
            self._keep(self._steps.take())

    def _keep(self, steps: Iterable[tuple[dict[str, Tensor], Tensor | None]]) -> None:
        for output, applied in steps:
            for name, value in output.items():
                values = self.tracked_values[name]
                if applied is not None or name in self._flags:
                    one = torch.ones((), device=value.device)
                    flags = self._flags.setdefault(name, [one.expand(sum(known.numel() for known in values))])
                    _append(flags, one if applied is None else applied, fold=True)
                elif self.reduce == "last" and not self.save_output:
                    values.clear()
                _append(values, value, fold=not self.save_output)

    def _read_flags(self) -> None:
        """Forget the values of updates that were not applied; waits for the device, and is for checkpoints."""
        for name, flags in self._flags.items():
            known = torch.cat([flag.reshape(-1) for flag in flags]).tolist()
            numbers = torch.cat([value.reshape(-1) for value in self.tracked_values[name]]).unbind()
            kept = [number for number, flag in zip(numbers, known, strict=True) if flag]
            self.tracked_values[name] = kept[-1:] if self.reduce == "last" else kept
            if not kept:
                del self.tracked_values[name]
        self._flags.clear()

    def periodic_callback(
        self, *, update_counter: UpdateCounter, interval_type: IntervalType = "update", **_: Any
    ) -> None:
        """Log and save the values of the interval; an evaluation outside of training has none.

        Raises:
            StorageError: if the disk refuses a file.
        """
        self._take()
        if not self.tracked_values:
            self._warn_once(interval_type)
        for name, values in self.tracked_values.items():
            if self.log_output or self.verbose:
                self._tell(name + self._suffix, *self._reduced(values, self._flags.get(name)))
        if self.out is not None and self.tracked_values:
            file = self.out / f"{update_counter.cur_iteration}.safetensors"
            write_outputs(file, self.tracked_values, run=self.trainer.path_provider.run_path)
        self.tracked_values.clear()
        self._flags.clear()

    def _warn_once(self, interval_type: IntervalType) -> None:
        """Warn once about patterns that match no output, as a misspelt one does."""
        if interval_type == "eval" or self._warned:
            return
        self._warned = True
        patterns, returned = ", ".join(map(repr, self.patterns)), ", ".join(map(repr, self._returned))
        self.logger.warning(
            "callback '%s' tracked nothing: no output name contains one of its patterns %s; the last train step "
            "returned %s",
            self.id,
            patterns,
            returned or "no outputs beside its losses",
        )

    def _reduced(self, values: list[Tensor], flags: list[Tensor] | None) -> tuple[Tensor, Tensor | None]:
        """Return the number to log, and the number of values in it if only the device knows it."""
        if flags is not None:
            numbers = precise(torch.cat([value.reshape(-1) for value in values]))
            applied = precise(torch.cat([flag.reshape(-1) for flag in flags]))
            count = applied.sum()
            if self.reduce == "last":
                places = torch.arange(1, len(applied) + 1, device=applied.device)
                return numbers.index_select(0, (applied * places).argmax().reshape(1)).reshape(()), count
            return numbers.where(applied > 0, 0.0).sum() / count, count
        if self.reduce == "last":
            return _one_number(values[-1]), None
        numbers_of = map(_one_number, values) if self.save_output else values
        return precise(torch.cat([number.reshape(-1) for number in numbers_of])).mean(), None

    def _tell(self, key: str, value: Tensor, count: Tensor | None) -> None:
        logger = self.logger if self.verbose else None
        if self.log_output and count is not None:
            self.writer.add_mean(key, value, count, logger=logger)
        elif self.log_output:
            self.writer.add_scalar(key, value, logger=logger)
        elif count is None or count.item():
            self.logger.info("%s: %s", key, f"{value.item():.6g}")

    def state_dict(self) -> dict[str, Any] | None:
        """Return the values of the current interval."""
        self._take()
        self._read_flags()
        tracked = {name: list(values) for name, values in self.tracked_values.items()}
        return {"tracked": tracked} if tracked else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the values of the current interval."""
        self.tracked_values.clear()
        self._flags.clear()
        for name, values in state_dict["tracked"].items():
            self.tracked_values[name] = [value.to(self.trainer.device) for value in values]


def _suffix(config: CallBackBaseConfig) -> str:
    """Return the end of the metric keys: the id, of every callback of this kind but the first."""
    return f"/{config.id}" if config.id and config.id != KIND else ""


def _one_number(output: Tensor) -> Tensor:
    """Return the mean over all elements without waiting for the device; for a scalar, a copy."""
    if output.numel() == 1:
        return output.reshape(()).clone()
    return output.mean(dtype=torch.promote_types(output.dtype, torch.float32))


def _append(numbers: list[Tensor], number: Tensor, *, fold: bool) -> None:
    """Add a tensor to a list; with `fold`, many numbers in a row become one tensor."""
    numbers.append(number)
    if fold and len(numbers) >= HOLD and not numbers[-HOLD].ndim:
        numbers[-HOLD:] = [torch.stack(numbers[-HOLD:])]
