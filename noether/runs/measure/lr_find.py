"""`noether lr-find`: a short training whose learning rate grows at every update, and the rate that its losses suggest.

The test is that of Smith (Cyclical Learning Rates for Training Neural Networks, 2017; arXiv:1506.01186): as long as the
rate is far too small, the loss stays; then it falls faster and faster; then training diverges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import Any

from noether.config.components import ScheduleBaseConfig
from noether.errors import NoetherError, NonFiniteError, SpecError, TrainingError, UsageError
from noether.kernel.hookspecs import hookimpl
from noether.kernel.participant import Participant
from noether.kernel.progress import UpdateCounter
from noether.optim.schedules import Schedule, Scheduled
from noether.runs.outcome import EXIT_CODE, describe
from noether.runs.prepare import Run, rehearsal
from noether.spec.errors.words import toml_path
from noether.spec.fields import configs_in
from noether.spec.load import LoadedSpec
from noether.training.signals import StoppedBySignal

FEWEST = 20  # updates
_SMOOTH, _NEIGHBOURS = 0.8, 12  # weight of the next update in the smoothed loss; updates on each side
_FALLS = 0.05  # share of the first loss that it has to fall by, or nothing is suggested
_RISES = 1.2  # as a share of the fall before, after which training has diverged
_LASTING = 5  # updates
_FALLS_SURELY = 2.5  # standard errors of the newest smoothed loss; of one with neighbours on both sides, 3.5
_SURE = 4.0  # standard errors of a smoothed loss; what changes less is the noise of batches
_ID = "noether-lr-find"
LIMITS = {f"trainer.{name}": None for name in ("max_epochs", "max_updates", "max_samples", "start_at_epoch")}


@dataclass(frozen=True, slots=True)
class LrTest:
    """Result of a learning rate range test.

    Attributes:
        rates: The learning rate of each update; of several optimizers or groups, the first one's.
        losses: The loss of each update, before it is applied.
        smoothed: The same, smoothed.
        end: Reason for the end of the test.
        steepest: The rate at which the smoothed loss falls fastest; None if it does not fall.
        lowest: The rate at which it is lowest.
        values: The suggestion by path: the rate of each optimizer.
        name: Name of the spec.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    end: str
    steepest: float | None
    lowest: float | None
    values: dict[str, float]
    name: str

    @property
    def reason(self) -> str:
        """The reason for the suggestion, in words."""
        assert self.steepest is not None and self.lowest is not None, "there is a suggestion"
        steepest, lowest = f"{self.steepest:.2g}", f"{self.lowest:.2g}"
        if self.steepest <= self.lowest / 10:
            return f"the loss falls fastest there, and is lowest at {lowest}"
        return f"a tenth of {lowest}, where the loss is lowest; it falls fastest later, at {steepest}"


def optimizer_paths(loaded: LoadedSpec) -> dict[str, float]:
    """Return the learning rates of a spec by the path of their optimizer.

    Raises:
        SpecError: if there is no optimizer, or one has no learning rate above 0.
    """
    found = {}
    for path, config in configs_in(loaded.spec.model, ("model",)):
        if config.role == "optimizer":
            rate = getattr(config, "lr", None)
            if not isinstance(rate, int | float) or rate <= 0:
                raise SpecError(
                    f"wrong lr of the optimizer at {toml_path(path)}: found {rate}, expected a number above 0",
                    hint="give it one; the test keeps the ratios of several",
                )
            found[toml_path(path)] = float(rate)
    if not found:
        raise SpecError("no optimizer in the spec, expected one", hint='[model.optimizer] kind = "AdamW"')
    return found


def without_callbacks(loaded: LoadedSpec) -> dict[str, Any]:
    """Return the overrides of a measurement: no callbacks, no schedules, no limits and no expectations."""
    schedules = {
        f"{path}.{key}": None for path in optimizer_paths(loaded) for key in ("schedule", "weight_decay_schedule")
    }
    return {**LIMITS, **schedules, "trainer.callbacks": [], "expect": None, "sweep": None}


def find_lr(
    loaded: LoadedSpec,
    short: LoadedSpec,
    plugins: Sequence[str],
    *,
    lowest: float,
    highest: float,
    updates: int,
) -> LrTest:
    """Train with a growing learning rate in a temporary folder, and return what the losses suggest.

    Args:
        loaded: The spec.
        short: The same with the overrides of `without_callbacks` and `trainer.max_updates`.
        plugins: Run plugins beside those that the spec uses.
        lowest: The first rate.
        highest: The last rate.
        updates: Most updates.

    Raises:
        UsageError: if the spec is wrong, or continues another run.
        TrainingError: if training fails otherwise than by a loss that is not finite.
    """
    base = optimizer_paths(loaded)
    reference = next(iter(base.values()))
    probe = _Probe(lowest, highest, updates, reference)
    extra = Participant(_ID, _ID, probe, is_plugin=True)
    with redirect_stdout(StringIO()), rehearsal(short, plugins, extras=[extra]) as run:
        require_new(run)
        probe.begin(run)
        try:
            train(run)
        except NonFiniteError:
            probe.end = f"the loss is not finite at a rate of {probe.rate(len(probe.losses)):.2g}"
    smoothed = smooth(probe.losses)
    rates = [probe.rate(update) for update in range(len(probe.losses))]
    calm = max(FEWEST, smoothed.index(min(smoothed))) if smoothed else 0  # training may diverge later
    steepest, best = suggest(rates, smoothed, noise_of(probe.losses[:calm]))
    values = {}
    if steepest is not None and best is not None:
        chosen = min(steepest, best / 10)
        values = {f"{path}.lr": _rounded(rate * chosen / reference) for path, rate in base.items()}
    return LrTest(rates, probe.losses, smoothed, probe.end, steepest, best, values, loaded.spec.name)


def require_new(run: Run) -> None:
    """Check that a run begins anew.

    Raises:
        UsageError: if it continues another one.
    """
    if run.trainer.initializer is not None and run.trainer.initializer.continues_a_run:
        raise UsageError(
            "the spec continues another run, whose optimizer state a measurement would start from",
            hint="remove it with --unset initializer",
        )


def train(run: Run) -> None:
    """Train a run that is only measured.

    Raises:
        TrainingError: if a callback or the model fails.
        SystemExit: if a signal came.
    """
    try:
        run.trainer.train(run.model)
    except StoppedBySignal as stop:
        raise SystemExit(EXIT_CODE + stop.signal_number) from None
    except NoetherError:
        raise
    except Exception as error:
        raise TrainingError(f"training failed: {describe(error)}") from error
    if run.trainer.signals.received is not None:
        raise SystemExit(EXIT_CODE + run.trainer.signals.received)


class _Growing(Schedule):
    """The factor on every learning rate that makes the first one grow exponentially."""

    def __init__(self, probe: _Probe, reference: float) -> None:
        super().__init__(ScheduleBaseConfig.model_construct(), total_updates=probe.updates, updates_per_epoch=1)
        self._probe, self._reference = probe, reference

    def factor(self, update: int) -> float:
        """Return the factor for the update after `update` completed ones."""
        return self._probe.rate(update) / self._reference


class _Probe:
    """A run plugin that keeps the losses, and ends the test when they diverge."""

    def __init__(self, lowest: float, highest: float, updates: int, reference: float) -> None:
        self.lowest, self.highest, self.updates, self._reference = lowest, highest, updates, reference
        self.losses: list[float] = []
        self.end = f"it has reached the highest rate, {highest:g}"
        self._sum = 0.0
        self._settled: list[float] = []

    def rate(self, update: int) -> float:
        """Return the learning rate of the update after `update` completed ones."""
        return self.lowest * math.pow(self.highest / self.lowest, update / max(1, self.updates - 1))

    def begin(self, run: Run) -> None:
        """Put the learning rates of all optimizers under the test."""
        self._run = run
        schedule = _Growing(self, self._reference)
        for optimizer in run.model.optimizers().values():
            groups = optimizer.torch_optimizer.param_groups
            optimizer.scheduled = [Scheduled("lr", schedule, groups)]

    @hookimpl
    def track_after_accumulation_step(
        self, update_counter: UpdateCounter, losses: Any, accumulation_steps: int, accumulation_step: int
    ) -> None:
        """Keep the loss of an update."""
        self._sum += float(losses["total"]) / accumulation_steps
        if accumulation_step < accumulation_steps - 1:
            return
        self.losses.append(self._sum)
        self._sum = 0.0
        rate = self.rate(len(self.losses) - 1)
        if not math.isfinite(self.losses[-1]):
            self._stop(f"the loss is not finite at a rate of {rate:.2g}")
        elif len(self.losses) > 2 * FEWEST and diverges(self._smoothed(), self.losses):
            self._stop(f"training diverges at a rate of {rate:.2g}")

    def _smoothed(self) -> list[float]:
        """Return the smoothed losses that no later loss changes any more, and the newest one."""
        for place in range(len(self._settled), len(self.losses) - _NEIGHBOURS):
            first = max(0, place - _NEIGHBOURS)
            self._settled.append(smooth(self.losses[first : place + _NEIGHBOURS + 1])[place - first])
        return [*self._settled, smooth(self.losses[-_NEIGHBOURS - 1 :])[-1]]

    def _stop(self, reason: str) -> None:
        self.end = reason
        self._run.trainer.request_stop(reason)


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the mean of each loss and its neighbours, which count less the farther they are, on both sides alike.

    A mean of earlier losses alone lags behind, and would show every change at a rate that is too high.
    """
    weights = [_SMOOTH**distance for distance in range(_NEIGHBOURS + 1)]
    smoothed = []
    for place in range(len(losses)):
        near = range(max(0, place - _NEIGHBOURS), min(len(losses), place + _NEIGHBOURS + 1))
        total = sum(weights[abs(place - other)] for other in near)
        smoothed.append(sum(weights[abs(place - other)] * losses[other] for other in near) / total)
    return smoothed


def noise_of(losses: Sequence[float]) -> float:
    """Return the standard error of a smoothed loss, from the differences between neighbours."""
    squares = [(after - before) ** 2 / 2 for before, after in pairwise(losses)]
    weights = [_SMOOTH**distance for distance in range(_NEIGHBOURS + 1)]  # of the newest loss: the least exact one
    return math.sqrt(sum(squares) / max(1, len(squares)) * sum(weight**2 for weight in weights)) / sum(weights)


def diverges(smoothed: Sequence[float], losses: Sequence[float]) -> bool:
    """Return True if the smoothed loss has risen by more than it had fallen before, than its lowest value, and noise.

    A few batches of rare samples raise it too, so each of the newest losses must be above those at the beginning.

    Args:
        smoothed: The smoothed losses.
        losses: The losses.
    """
    lowest, start = min(smoothed), sum(smoothed[:FEWEST]) / len(smoothed[:FEWEST])
    has_risen = smoothed[-1] > lowest + _RISES * max(smoothed[0] - lowest, abs(lowest))
    if not has_risen or min(losses[-_LASTING:]) <= start:
        return False
    return smoothed[-1] > start + _SURE * noise_of(losses[:-_NEIGHBOURS])


def suggest(rates: Sequence[float], smoothed: Sequence[float], noise: float = 0.0) -> tuple[float | None, float | None]:
    """Return the rate at which the loss falls fastest, and that of the lowest loss; None if it does not fall.

    Args:
        rates: The learning rates.
        smoothed: The smoothed loss at each.
        noise: Standard error of one of them; a fall that it explains is none.
    """
    finite = [place for place, loss in enumerate(smoothed) if math.isfinite(loss)]
    if len(finite) < FEWEST:
        return None, None
    lowest = min(finite, key=lambda place: smoothed[place])
    first = min(FEWEST, len(smoothed) // 5) if noise else 1
    start = sum(smoothed[:first]) / first
    is_early = lowest < 2 * first  # a dip of the noise, among the losses that it is compared with
    if start - smoothed[lowest] < max(_FALLS * abs(start), _FALLS_SURELY * noise) or is_early:
        return None, None
    # Before the fall, the noise of batches has slopes as well.
    falls = max((place for place in range(1, lowest) if smoothed[place] >= start - noise), default=1) if noise else 1
    slopes = {
        place: (smoothed[place + 1] - smoothed[place - 1]) / math.log(rates[place + 1] / rates[place - 1])
        for place in range(falls, lowest)
    }
    return rates[min(slopes, key=lambda place: slopes[place])], rates[lowest]


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
