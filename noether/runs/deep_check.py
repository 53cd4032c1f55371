"""`check --deep`: build everything, process one batch, make two updates and one save in a temporary folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from math import isclose
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.paths import read_checkpoint
from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.base import CallbackBase, explaining_gradients
from noether.core.callbacks.evaluation import put_together
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback, iterator_callbacks
from noether.core.models.agreement import require_agreement
from noether.core.models.base import evaluating
from noether.data.collators import described
from noether.data.dataset import length_of
from noether.errors import NoetherError, TrainingError, error_text, notes_of
from noether.kernel.hookspecs import hookimpl
from noether.kernel.participant import Participant
from noether.kernel.progress import EarlyStopIteration, UpdateCounter
from noether.runs.outcome import EXIT_CODE, describe
from noether.runs.prepare import Run, rehearsal
from noether.spec.checks import interval_findings
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.errors.words import quoted
from noether.spec.fields import configs_in
from noether.spec.load import LoadedSpec
from noether.spec.locate import TomlPath
from noether.spec.model import RunSpec
from noether.spec.read.layering import located
from noether.training.signals import StoppedBySignal
from noether.training.trainers.types import TrainerResult

_LOG = logging.getLogger("noether.run")
_UPDATES = 2


class TwoUpdates:
    """A run plugin that lets each callback act once, on one batch, and ends training after two updates.

    Attributes:
        problems: Problems of the callbacks.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._run: Run | None = None
        self._last = _UPDATES

    @hookimpl
    def run_started(self, run: Any) -> None:
        """Keep the run."""
        self._run = run
        self._last = run.trainer.update_counter.update + _UPDATES

    @hookimpl
    def after_update(self, update_counter: UpdateCounter, trainer_model: torch.nn.Module) -> None:
        """Try the callbacks once training has prepared them, and stop."""
        if self._run is None or update_counter.update < min(self._last, update_counter.end_update):
            return
        self._run.trainer.request_stop("two updates are enough for a check")
        self.problems += _failing(self._run, trainer_model, update_counter)


def evaluation_problems(run: Run) -> list[Problem]:
    """Return the evaluation callbacks whose data set is empty."""
    paths = callback_paths(run.spec)
    problems = []
    for callback in iterator_callbacks(run.trainer.callbacks):
        key = callback.data_name
        if length_of(run.data.get_dataset(key)) == 0:
            message = f"the data set {quoted(key)} is empty, so '{callback.id}' has nothing to go through"
            problems.append(Problem("empty-dataset", _field(paths, callback, "dataset_key"), message))
    return problems


def forward_problems(run: Run) -> list[Problem]:
    """Return the problem of one training batch in model and loss; none if it passes."""
    trainer = run.trainer
    if not trainer.total_training_updates:
        return []
    with _without_workers(run):
        tagged = next(iter(trainer.get_data_loader([], trainer.batch_size)))
    batch = trainer.to_device(tagged.batch)
    outputs: list[Any] = []
    seen = run.model.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        with torch.no_grad(), trainer.autocast(), _strict_about_shapes(), explaining_gradients():
            trainer.train_step(batch, run.model)
    except Exception as error:
        parts = [f"one batch does not go through {'the loss' if outputs else 'the model'}: {describe(error)}"]
        parts.append(f"the batch has {_shapes(batch)}")
        parts += [f"the model returned {_shapes(output)}" for output in outputs]
        has_loss = outputs and hasattr(run.spec.trainer, "loss_fn")
        path: TomlPath = ("trainer", "loss_fn") if has_loss else ("trainer",) if outputs else ("model",)
        return [Problem("forward-failed", path, "; ".join(parts), getattr(error, "hint", None))]
    finally:
        seen.remove()
    try:
        require_agreement(run.model)  # the forward pass may have made parameters
    except TrainingError as error:
        return [Problem("forward-failed", ("model",), error.message, error.hint)]
    return _sum_problems(run, batch)


def _sum_problems(run: Run, batch: Any) -> list[Problem]:
    """Return the problem of a loss that is a sum over samples, which gradient accumulation takes as a mean.

    A sum over a batch is the sum of those over its halves; a mean is their mean.
    """
    samples = run.trainer.batch_size // 2 * 2
    if run.trainer.accumulation_steps == 1 or not samples or not _has_samples(batch, samples):
        return []
    parts = [slice(0, samples), slice(0, samples // 2), slice(samples // 2, samples)]
    batches = [{name: value[part] for name, value in batch.items()} for part in parts]
    with torch.no_grad(), run.trainer.autocast(), evaluating(run.model):
        try:
            results = [TrainerResult.of(run.trainer.train_step(one, run.model)) for one in batches]
        except Exception as error:  # a smaller batch may be none that this loss takes
            _LOG.warning(
                "not known if the loss is a sum over samples, which accumulation takes for a mean: half a batch does "
                "not go through it: %s",
                error_text(error),
            )
            return []
    whole, first, second = (float(result.total_loss) for result in results)
    is_sum = isclose(whole, first + second, rel_tol=1e-4) and not isclose(whole, (first + second) / 2, rel_tol=1e-2)
    if not is_sum or any(result.count is not None for result in results):
        return []
    message = (
        f"the loss is a sum over samples: found {whole:.4g} for {samples} of them, {first:.4g} and {second:.4g} for "
        f"their halves; its {run.trainer.accumulation_steps} accumulation steps are put together as means"
    )
    hint = 'return Counted(loss, "sum"), of noether.training.trainers, or a mean over samples'
    path: TomlPath = ("trainer", "loss_fn") if hasattr(run.spec.trainer, "loss_fn") else ("trainer",)
    return [Problem("summed-loss", path, message, hint)]


def _has_samples(batch: Any, samples: int) -> bool:
    return isinstance(batch, dict) and all(
        isinstance(value, Tensor | list) and len(value) >= samples for value in batch.values()
    )


def _failing(run: Run, model: torch.nn.Module, counter: UpdateCounter) -> Iterator[Problem]:
    """Yield the callbacks that fail when their interval fires, which it may not do in two updates.

    Those that go through data get one batch, and its result as that of the whole pass.
    """
    paths = callback_paths(run.spec)
    with evaluating(model):
        for callback in _in_order_of_rounds(run):
            batch: Any = {}
            doing = "fails when its interval fires"
            try:
                if isinstance(callback, PeriodicDataIteratorCallback):
                    doing = "cannot use a batch of its data set"
                    batch = _first_batch(run, callback)
                    with torch.no_grad(), _strict_about_shapes(), run.trainer.autocast(), explaining_gradients():
                        result = callback.process_on_device(batch, trainer_model=model)
                    doing, results = "cannot use the results of its data set", put_together([result])
                    callback.process_results(results, interval_type="eval", update_counter=counter)
                else:
                    callback.at_eval(
                        counter, trainer_model=model, data_iter=iter(()), batch_size=run.trainer.batch_size
                    )
            except EarlyStopIteration:
                continue
            except Exception as error:
                message = f"'{callback.id}' {doing}: {describe(error)}"
                message += f"; the batch has {_shapes(batch)}" if batch else ""
                yield Problem("evaluation-failed", paths.get(callback.id, ()), message, getattr(error, "hint", None))


def _in_order_of_rounds(run: Run) -> list[PeriodicCallback]:
    """Return the callbacks that go through data, and those of users: intervals in epochs fire after the others."""
    passes = iterator_callbacks(run.trainer.callbacks)
    own = [
        callback
        for callback in run.trainer.callbacks
        if isinstance(callback, PeriodicCallback) and not iterator_callbacks([callback]) and not _is_built_in(callback)
    ]
    return [*passes, *sorted(own, key=lambda callback: callback.every_n_epochs is not None)]


def _is_built_in(callback: CallbackBase) -> bool:
    entry = callback.component.entry if callback.component is not None else None
    return entry is not None and entry.is_built_in


def _first_batch(run: Run, callback: PeriodicDataIteratorCallback) -> Any:
    with _without_workers(run):
        loader = run.data.build_loader(
            [callback.sampler_config],
            batch_size=run.trainer.batch_size,
            evaluation=True,
            device=run.trainer.device,
        )
        return next(iter(loader)).batch


def callback_paths(spec: RunSpec) -> dict[str, TomlPath]:
    """Return the place in the spec of each callback, by id."""
    return {
        config.id: path for path, config in configs_in(spec) if isinstance(config, CallBackBaseConfig) and config.id
    }


def _field(paths: Mapping[str, TomlPath], callback: PeriodicDataIteratorCallback, field: str) -> TomlPath:
    path = paths.get(callback.id, ())
    return (*path, field) if path and getattr(callback.callback_config, field) is not None else path


@contextmanager
def _without_workers(run: Run) -> Iterator[None]:
    """Load in this process: one batch is not worth the start of workers."""
    workers, run.data.num_workers = run.data.num_workers, 0
    try:
        yield
    finally:
        run.data.num_workers = workers


@contextmanager
def _strict_about_shapes() -> Iterator[None]:
    """Make an error of the warning that a loss compares every sample with every other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size")
        yield


def _shapes(value: Any) -> str:
    """Name shapes and types of tensors: `image (64, 1, 8, 8) float32`."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shapes(item)}" for name, item in value.items())
    return described(value)


def deep_check(loaded: LoadedSpec, plugins: Iterable[str] = ()) -> list[Problem]:
    """Build everything, process one batch, train for two updates, and return the problems.

    Nothing is left behind: the run folder is temporary, and trackers are not built. A run that only evaluates (a limit
    of zero) does so completely.

    Args:
        loaded: A valid spec.
        plugins: Run plugins beside those that the spec uses.
    """
    short = TwoUpdates()
    extra = Participant("noether-deep-check", "deep-check", short, is_plugin=True)
    try:
        with redirect_stdout(StringIO()), rehearsal(loaded, plugins, extras=[extra]) as run:
            return _sizes(run) or forward_problems(run) or _trained(run, short)
    except Exception as error:
        return [_problem("build-failed", "the run cannot be built", error)]


def check_deeply(loaded: LoadedSpec, plugins: Iterable[str] = ()) -> None:
    """Raise the problems of a `deep_check`.

    Raises:
        InvalidSpecError: if there are problems; the error shows all of them with their places.
    """
    if problems := deep_check(loaded, plugins):
        raise InvalidSpecError(located(problems, loaded.origins), origin=loaded.origin)


def _sizes(run: Run) -> list[Problem]:
    """Return the problems that depend on the sizes of the data: empty data sets, intervals that never fire."""
    findings = interval_findings(run.spec, run.trainer.update_counter, all_units=True)
    return [*evaluation_problems(run), *(problem for problem, certain in findings if certain)]


def _trained(run: Run, short: TwoUpdates) -> list[Problem]:
    try:
        run.trainer.train(run.model)
    except StoppedBySignal as stop:  # by a second signal, at once
        raise SystemExit(EXIT_CODE + stop.signal_number) from None
    except Exception as error:
        problem = _problem("update-failed", "the first two updates fail", error)
        told = " ".join(notes_of(error))
        named = (path for id, path in callback_paths(run.spec).items() if f"callback '{id}'" in told)
        problems = [*short.problems, replace(problem, path=problem.path or next(named, ()))]
    else:
        problems = [*short.problems, *_saved(run)]
    if run.trainer.signals.received is not None:
        raise SystemExit(EXIT_CODE + run.trainer.signals.received)
    return problems


def _saved(run: Run) -> list[Problem]:
    folder = run.trainer.checkpoint_writer.last_committed
    if folder is None:
        return []  # a run that only evaluates saves nothing
    try:
        read_checkpoint(folder)
    except NoetherError as error:
        return [_problem("save-failed", "the checkpoint cannot be read back", error)]
    return []


def _problem(code: str, summary: str, error: Exception) -> Problem:
    path, hint = (error.path, error.hint) if isinstance(error, NoetherError) else ((), None)
    return Problem(code, path, f"{summary}: {describe(error)}", hint)
