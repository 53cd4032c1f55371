"""A sweep before it runs: its spec, its trials, all of them checked, and what has changed since it ran last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from noether.config.components import SweepSettings
from noether.errors import NoetherError, UsageError
from noether.runs.sweep.journal import Journal, Record
from noether.spec.errors.problem import MAX_PROBLEMS, InvalidSpecError, Problem
from noether.spec.load import LoadedSpec, load_spec
from noether.spec.locate import TomlPath
from noether.spec.metric_checks import metric_flow
from noether.spec.model import resolved_tables
from noether.spec.overlay import ABSENT, MARK, differences, write_overlay
from noether.spec.read.layering import layered, override
from noether.spec.read.layers import value_of
from noether.spec.sweep import (
    Objective,
    Swept,
    known_trials,
    method_of,
    objective_of,
    swept_paths,
)

_COMPARABLE = ("name", "output", "trackers", "checkpoints", "loader", "expect", "threads", "device")
"""Keys that may change between two starts of a sweep: trials stay comparable."""


@dataclass(frozen=True)
class SweepPlan:
    """A spec with a valid `[sweep]` table.

    Attributes:
        path: The spec file.
        options: Overrides, run plugins and trusted packages, as `load_spec` takes them.
        loaded: The spec without the values of a trial.
        swept: The paths of the sweep.
        method: grid, random or optuna.
        objective: The metric that compares the trials.
        journal: The folder of the sweep.
    """

    path: Path
    options: Mapping[str, Sequence[str]]
    loaded: LoadedSpec
    swept: Sequence[Swept]
    method: str
    objective: Objective
    journal: Journal

    @property
    def settings(self) -> SweepSettings:
        """The settings of the sweep."""
        assert self.loaded.spec.sweep is not None, "see `of`"
        return self.loaded.spec.sweep.settings

    @classmethod
    def of(cls, path: Path, name: str | None = None, **options: Sequence[str]) -> SweepPlan:
        """Load a spec that has a `[sweep]` table.

        Args:
            path: The spec file.
            name: Name of the sweep in place of that of the spec.
            **options: `overrides`, `plugins` and `trust`, as `load_spec` takes them.

        Raises:
            UsageError: if the spec is wrong or has no such table.
        """
        loaded = load_spec(path, **options)  # type: ignore[arg-type]  # the three are sequences of text
        spec = loaded.spec
        if spec.sweep is None:
            raise UsageError(
                f"nothing to sweep: found no [sweep] table in {path}",
                hint="add one, or give values here: "
                f"noether sweep {path} -s 'sweep.\"model.optimizer.lr\"=[1e-3, 1e-2]'",
            )
        swept = swept_paths(spec.sweep)
        flow = metric_flow(spec, plugins=options.get("plugins", ()))
        return cls(
            path,
            options,
            loaded,
            swept,
            method_of(spec.sweep, swept),
            objective_of(spec, flow),
            Journal(spec.output, name or spec.sweep.settings.name or spec.name),
        )

    def trial(self, values: Mapping[str, Any]) -> LoadedSpec:
        """Load the spec of a trial.

        Raises:
            InvalidSpecError: if it is invalid.
        """
        return load_spec(self.path, **self.options, set=dict(values))  # type: ignore[arg-type]  # as above

    def check(self, trials: Iterable[Mapping[str, Any]]) -> None:
        """Load every trial.

        Raises:
            InvalidSpecError: with the problems of all trials, each once, and at the value in `[sweep]` that has it.
        """
        problems: dict[tuple[TomlPath, str], Problem] = {}
        for values in trials:
            for problem in self._problems(values):
                problems.setdefault((problem.path, problem.message), problem)
        if not problems:
            return
        for one in self.swept:
            for index, value in enumerate(one.values):
                for problem in self._problems({one.path: value}):
                    if (key := (problem.path, problem.message)) in problems:
                        problems[key] = self._placed(problem, one, index)
        found = list(problems.values())
        more = max(0, len(found) - MAX_PROBLEMS)
        raise InvalidSpecError(found[:MAX_PROBLEMS], origin=self.loaded.origin, more=more)

    def _problems(self, values: Mapping[str, Any]) -> Sequence[Problem]:
        try:
            self.trial(values)
        except InvalidSpecError as error:
            return error.problems
        return ()

    def _placed(self, problem: Problem, one: Swept, index: int) -> Problem:
        """Return a problem at the value of the sweep that has it, or at the path if that is wrong."""
        is_path = problem.code in ("unknown-path", "unknown-key")
        at: TomlPath = one.at if is_path else (*one.at, *(() if one.is_list else (one.draw,)), index)
        sources = self.loaded.origins.nearest(at)[1]
        places = (source.key_place if is_path else source.place for source in sources)
        return replace(problem, places=tuple(place for place in places if place is not None)[:1])

    def known(self) -> list[dict[str, Any]] | None:
        """Return the values of all trials; None if a sampler chooses them."""
        assert self.loaded.spec.sweep is not None, "see `of`"
        return known_trials(self.loaded.spec.sweep)

    def extremes(self) -> Iterator[dict[str, Any]]:
        """Yield values of trials that a sampler may choose: each value, or bound, of each path at least once."""
        for index in range(max(len(one.values) for one in self.swept)):
            yield {one.path: one.values[min(index, len(one.values) - 1)] for one in self.swept}

    def allows(self, values: Mapping[str, Any]) -> bool:
        """Return True if the table could have a trial with these values."""
        by_path = {one.path: one for one in self.swept}
        return values.keys() == by_path.keys() and all(by_path[path].allows(value) for path, value in values.items())

    def tables(self) -> dict[str, Any]:
        """Return the resolved spec without the values of a trial, as the journal keeps it."""
        found: dict[str, Any] = _in_json(resolved_tables(self.loaded.spec))
        return found

    def has_changed(self) -> bool:
        """Return True if the spec file, read again, is another spec than the one that was loaded."""
        try:
            again = load_spec(self.path, **self.options)  # type: ignore[arg-type]  # as above
        except NoetherError:
            return True
        return bool(differences(_in_json(resolved_tables(again.spec)), self.tables()))

    def require_same(self, record: Record) -> None:
        """Check that trials of an earlier start can be compared with those of this one.

        Raises:
            UsageError: if the spec has changed beside the `[sweep]` table; the message shows each difference.
        """
        lines = [
            f"{change.key}: {_shown(change.left)} → {_shown(change.right)}"
            for change in differences(record.base, self.tables())
            if not self._is_comparable(change.key)
        ]
        if record.objective != self.objective:
            lines.append(f"compared by: {record.objective.words} → {self.objective.words}")
        if lines:
            raise UsageError(
                "\n  ".join(["sweep refused: its earlier trials ran with another spec:", *lines]),
                hint="undo the changes, or begin another sweep: --name NAME",
            )

    def _is_comparable(self, key: str) -> bool:
        paths = [one.path for one in self.swept]
        return key.startswith(_COMPARABLE) or any(
            key == path or key.startswith(f"{path}.") or path.startswith(f"{key}.") for path in paths
        )

    def write_best(self, trial_id: str, values: Mapping[str, Any], path: Path | None = None) -> Path | None:
        """Write an overlay with the values of the best trial; return its path, None if it cannot be in the folder.

        Args:
            trial_id: Id of its run.
            values: Its values.
            path: The file that the user wants; unset, one in the folder of the sweep.

        Raises:
            UsageError: if the file that the user wants cannot say the same as the values.
        """
        remarks = [f"{MARK} sweep`: the values of {trial_id}, compared by {self.objective.words}."]
        try:
            return write_overlay(self.loaded, path or self.journal.folder / "best.toml", values, remarks, self.options)
        except UsageError:
            if path is not None:
                raise
            return None


def find_sweep(path: Path, overrides: Sequence[str], name: str | None) -> Journal:
    """Return the folder of the sweep of a spec, without validating it: nothing that it names is imported.

    Raises:
        SpecError: if the file cannot be read.
    """
    root = layered(path, [Path("/")]).root
    override(root, overrides, {}, path)
    tables = value_of(root)
    sweep = tables.get("sweep")
    settings = sweep.get("settings") if isinstance(sweep, dict) else None
    own = settings.get("name") if isinstance(settings, dict) else None
    output = tables.get("output", "runs")
    return Journal(output if isinstance(output, str) else "runs", str(name or own or tables["name"]))


def _shown(value: Any) -> str:
    return "absent" if value is ABSENT else repr(value)


def _in_json(value: Any) -> Any:
    """Return a value with the numbers that JSON lacks as text."""
    if isinstance(value, dict):
        return {key: _in_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
