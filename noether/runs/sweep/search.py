"""Optuna's samplers and pruners over the journal of a sweep, which stays the only memory.

The study lives in memory and is built from the journal at each start. Each choice has a seed of its own, made of that
of the sweep and the number of the trial, so that a sweep that was killed goes on as if it had not been, as far as the
order in which trials end is the same.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noether.config.components import SweepSettings
from noether.errors import UsageError, error_text
from noether.kernel.names import did_you_mean
from noether.runs.sweep.journal import BROKE, FAILED, FINISHED, PRUNED, Record, Trial
from noether.runs.sweep.plan import SweepPlan
from noether.spec.errors.words import listed, toml_literal
from noether.spec.sweep import Swept

PLOTS = {
    "history": "plot_optimization_history",
    "importance": "plot_param_importances",
    "slice": "plot_slice",
    "parallel": "plot_parallel_coordinate",
    "pruning": "plot_intermediate_values",
}
"""Optuna's plots by the name of their file."""
_MOST_NAMED = 14
"""Lines of a legend that fit beside a plot."""


class Search:
    """The study of a sweep.

    Args:
        plan: The sweep.
        record: Its journal; trials that its table allows are the memory of sampler and pruner.

    Raises:
        UsageError: if Optuna is missing, or its sampler or pruner cannot be made.
    """

    def __init__(self, plan: SweepPlan, record: Record) -> None:
        self._optuna = _optuna()
        self._settings, self._record = plan.settings, record
        self._distributions = {one.path: self._distribution(one) for one in plan.swept}
        self._swept = {one.path: one for one in plan.swept}
        self._study = self._optuna.create_study(
            direction="minimize" if plan.objective.direction == "lower" else "maximize",
            sampler=self._sampler(0),
            pruner=_made(self._optuna.pruners, "Pruner", "pruner", self._settings.pruner or "Nop"),
        )
        for key, value in record.study.items():
            self._study._storage.set_study_system_attr(self._study._study_id, key, value)
        self._numbers: dict[int, int] = {}  # of trials of the study, by those of the sweep
        for trial in record.trials:
            if plan.allows(trial.values):
                self.take(trial)

    def take(self, trial: Trial) -> None:
        """Add a trial of the journal, which has values already."""
        state = self._state(trial)
        value = trial.value(self._record.objective)
        self._numbers[trial.number] = len(self._numbers)
        self._study.add_trial(
            self._optuna.trial.create_trial(
                state=state,
                value=value if state == self._optuna.trial.TrialState.COMPLETE else None,
                params={path: self._encoded(path, value) for path, value in trial.values.items()},
                distributions=self._distributions,
                system_attrs=trial.sampler,
                intermediate_values={int(update): value for update, value in trial.reports},
            )
        )

    def ask(self) -> Trial:
        """Return a new trial of the journal with the values that the sampler chooses."""
        number = len(self._record.trials) + 1
        self._study.sampler = self._sampler(number)
        with _quiet():
            asked = self._study.ask(self._distributions)
        values = {path: self._decoded(path, asked.params[path]) for path in self._distributions}
        trial = self._record.add(values)
        self._numbers[trial.number] = asked.number
        self._keep(trial)
        return trial

    def prunes(self, trial: Trial, update: int, value: float) -> bool:
        """Report a value of the metric of a trial; return True if the pruner ends it."""
        if self._settings.pruner is None:
            return False
        trial.reports = [one for one in trial.reports if one[0] < update] + [[update, value]]
        running = self._optuna.trial.Trial(self._study, self._frozen(trial)._trial_id)
        with _quiet():
            running.report(value, update)
            return bool(running.should_prune())

    def tell(self, trial: Trial) -> None:
        """Report the end of a trial."""
        state, value = self._state(trial), trial.value(self._record.objective)
        if self._frozen(trial).state.is_finished() or not state.is_finished():
            return
        complete = state == self._optuna.trial.TrialState.COMPLETE
        with _quiet():
            self._study.tell(self._numbers[trial.number], value if complete else None, state=state)
        self._keep(trial)

    def draw(self, folder: Path) -> list[Path]:
        """Write Optuna's plots as pictures, those that these trials allow; return their files."""
        import matplotlib

        matplotlib.use("Agg", force=False)
        from matplotlib import pyplot

        made = []
        for name, function in PLOTS.items():
            if name == "pruning" and not any(trial.reports for trial in self._record.trials):
                continue
            with _quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    named = {} if name == "pruning" else {"target_name": self._record.objective.metric}
                    getattr(self._optuna.visualization.matplotlib, function)(self._study, **named)
                    figure = pyplot.gcf()
                    figure.set_size_inches(7.5, 4.6)
                    for axes in figure.axes:  # one line for each trial would be higher than the picture
                        if (legend := axes.get_legend()) is not None and len(legend.get_texts()) > _MOST_NAMED:
                            legend.remove()
                    figure.savefig(folder / f"{name}.png", dpi=144, bbox_inches="tight")
                    made.append(folder / f"{name}.png")
                except Exception:  # too few trials, or a package that this plot needs: the table has the numbers
                    continue
                finally:
                    pyplot.close("all")
        return made

    # Inside

    def _frozen(self, trial: Trial) -> Any:
        return self._study.get_trials(deepcopy=False)[self._numbers[trial.number]]

    def _keep(self, trial: Trial) -> None:
        trial.sampler = _in_json(self._study._storage.get_trial_system_attrs(self._frozen(trial)._trial_id))
        self._record.study = _in_json(self._study._storage.get_study_system_attrs(self._study._study_id))
        self._record.study.pop("study:metric_names", None)

    def _state(self, trial: Trial) -> Any:
        states = self._optuna.trial.TrialState
        if trial.state in (FINISHED, BROKE):
            return states.COMPLETE if trial.value(self._record.objective) is not None else states.FAIL
        return {PRUNED: states.PRUNED, FAILED: states.FAIL}.get(trial.state, states.RUNNING)

    def _sampler(self, number: int) -> Any:
        seed = int.from_bytes(hashlib.sha256(f"{self._settings.seed}/{number}".encode()).digest()[:4], "big") >> 1
        return _made(self._optuna.samplers, "Sampler", "sampler", self._settings.sampler, seed=seed)

    def _distribution(self, one: Swept) -> Any:
        kinds = self._optuna.distributions
        if one.draw == "choice":
            return kinds.CategoricalDistribution([toml_literal(value) for value in one.values])
        if one.draw == "int_uniform":
            return kinds.IntDistribution(*one.values)
        return kinds.FloatDistribution(*one.values, log=one.draw == "log_uniform")

    def _encoded(self, path: str, value: Any) -> Any:
        return toml_literal(value) if self._swept[path].draw == "choice" else value

    def _decoded(self, path: str, value: Any) -> Any:
        if self._swept[path].draw == "choice":
            return next(one for one in self._swept[path].values if toml_literal(one) == value)
        return value if isinstance(value, int) else float(value)


def require_optuna(settings: SweepSettings) -> None:
    """Check that the sampler and the pruner of a sweep can be made.

    Raises:
        UsageError: if they cannot.
    """
    optuna = _optuna()
    _made(optuna.samplers, "Sampler", "sampler", settings.sampler, seed=0)
    _made(optuna.pruners, "Pruner", "pruner", settings.pruner or "Nop")


def _optuna() -> Any:
    try:
        with _quiet():
            import optuna
            import optuna.visualization.matplotlib
    except ImportError as error:
        raise UsageError(
            f"this sweep needs Optuna, which is not installed ({error})", hint="pip install 'noether-train[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class _quiet(warnings.catch_warnings):  # noqa: N801  # a context manager as those of the standard library
    """Hide that parts of Optuna are experimental: whoever names them has read their page."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        return entered


def _made(module: Any, suffix: str, setting: str, given: str | Mapping[str, Any], **own: Any) -> Any:
    """Construct a sampler or a pruner from the name of its class, with or without its suffix, and its options."""
    options: dict[str, Any] = {} if isinstance(given, str) else dict(given)
    kind = given if isinstance(given, str) else options.pop("kind", None)
    base = getattr(module, f"Base{suffix}")
    classes = {name: one for name, one in vars(module).items() if inspect.isclass(one) and issubclass(one, base)}
    names = {name.removesuffix(suffix): one for name, one in classes.items() if not name.startswith(("Base", "Grid"))}
    wanted = _plain(str(kind).removesuffix(suffix))
    made = next((one for name, one in names.items() if _plain(name) == wanted), None)
    if made is None:
        found = "a table without kind" if kind is None else repr(kind)
        raise UsageError(
            f"unknown {setting} of the sweep: found {found}.{did_you_mean(str(kind), names)}",
            hint=f'Optuna has {listed(names)}; a grid is method = "grid"',
        )
    if isinstance(inner := options.get("wrapped_pruner"), str | dict):
        options["wrapped_pruner"] = _made(module, suffix, setting, inner)
    known = inspect.signature(made).parameters
    try:
        with _quiet():
            return made(**{**{key: value for key, value in own.items() if key in known}, **options})
    except Exception as error:  # its constructor says what is wrong
        raise UsageError(
            f"the {setting} of the sweep cannot be made: {made.__name__}: {error_text(error)}",
            hint=f"its options are {listed(known) or 'none'}",
        ) from error


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _in_json(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a journal can keep."""
    kept = {}
    for key, value in attributes.items():
        try:
            kept[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            continue
    return kept
