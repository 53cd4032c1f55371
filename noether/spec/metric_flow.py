"""Which callback logs which metrics, and which reads them: what the classes of a spec say about themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts, intervals_of, key_matches
from noether.kernel.intervals import Intervals
from noether.spec.configs import Path
from noether.spec.model import RunSpec


@dataclass(frozen=True)
class Actor:
    """A callback of the run, with what is known of its metrics.

    Attributes:
        name: Its id.
        path: Where it stands in the spec; None for a default callback.
        config: Its settings.
        target: Its class.
        position: Its place in the order of the spec.
        intervals: When it is called; a child whose parent calls it has the parent's.
        one_shot: Whether it is called before training only.
        prefixes: What its parents put before the keys of its metrics, an entry for each set of children.
        produced: What it logs, prefixes included; `*` stands for anything.
        complete: Whether that is all.
    """

    name: str
    path: Path | None
    config: CallBackBaseConfig
    target: Any
    position: int
    intervals: Intervals
    one_shot: bool
    prefixes: tuple[str, ...]
    produced: tuple[str, ...]
    complete: bool

    @property
    def moment(self) -> tuple[int, int]:
        """When it is called in a round: intervals in epochs fire after the others, each in the order of the spec."""
        return int(self.intervals.every_n_epochs is not None), self.position

    def logs(self, key: str) -> bool:
        """Whether it logs this metric."""
        return any(key_matches(pattern, key) for pattern in self.produced)


@dataclass(frozen=True)
class MetricFlow:
    """All callbacks of a run, in the order of the spec.

    Attributes:
        actors: Those that are known.
        silent: Whose metrics are not, or not all, known: callbacks, plugins, the trainer.
    """

    actors: tuple[Actor, ...]
    silent: tuple[str, ...]

    def producers(self, key: str) -> list[Actor]:
        """Return those who log a metric."""
        return [actor for actor in self.actors if actor.logs(key)]

    def known_keys(self, *, besides: Actor | None = None) -> list[str]:
        """Return what is logged, the user's callbacks first; `*` stands for what is not known before the run.

        Args:
            besides: Whose metrics to leave out.
        """
        actors = sorted((actor for actor in self.actors if actor is not besides), key=lambda actor: actor.path is None)
        return list(dict.fromkeys(pattern for actor in actors for pattern in actor.produced))

    def owner_of(self, child: Actor) -> Actor | None:
        """Return the callback that a nested one belongs to."""
        return next((actor for actor in self.actors if child.path and actor.path == child.path[:-2]), None)


def metric_flow(spec: RunSpec, *, end_update: int | None = None, plugins: Sequence[str] = ()) -> MetricFlow:
    """Return what the classes that a spec names say about their metrics; nothing is built.

    Args:
        spec: A valid spec.
        end_update: Updates of the run, where they are known.
        plugins: Run plugins beside those that the spec uses; what they log is not known.
    """
    trainer = component_of(spec.trainer).target
    losses = trainer.loss_names(spec.trainer) if _says(trainer, "loss_names") else None
    facts = MetricFacts(losses, tuple(spec.datasets))
    silent = [f"the plugin '{name}'" for name in (*spec.plugins.use, *plugins)]
    try:
        around = trainer.default_callback_configs(spec.trainer, end_update)
    except ValidationError:  # a default callback is not installed, which building the run will say
        around = None
    if around is None:
        silent.append(f"the trainer '{spec.trainer.kind}'")
    before, after = around or ([], [])
    users = [(("trainer", "callbacks", index), config) for index, config in enumerate(spec.trainer.callbacks or [])]
    everyone = [*((None, config) for config in before), *users, *((None, config) for config in after)]
    actors: list[Actor] = []
    for path, config in everyone:
        actors += _family(config, path, len(actors), facts, ("",), None)
    silent += [f"'{actor.name}'" for actor in actors if not actor.complete]
    return MetricFlow(tuple(actors), tuple(dict.fromkeys(silent)))


def _family(
    config: CallBackBaseConfig,
    path: Path | None,
    position: int,
    facts: MetricFacts,
    prefixes: tuple[str, ...] | None,
    triggered_by: Intervals | None,
) -> list[Actor]:
    """Return a callback and its children from `position` on, the children first: their parent calls them."""
    target = component_of(config).target
    intervals = triggered_by or intervals_of(config)
    below = target.child_metric_prefixes(config)
    known = None if below is None or prefixes is None else tuple(a + b for a in prefixes for b in below)
    family: list[Actor] = []
    trigger = None if config.children_need_interval else intervals
    for place, child in _children(config, path):
        family += _family(child, place, position + len(family), facts, known, trigger)
    says = target.produced_metrics(config, facts)
    produced = says or ()
    parent = Actor(
        name=config.id or config.kind,
        path=path,
        config=config,
        target=target,
        position=position + len(family),
        intervals=intervals,
        one_shot=not config.needs_interval and triggered_by is None,
        prefixes=prefixes or (),
        produced=tuple(prefix + pattern for prefix in prefixes or ("*",) for pattern in produced),
        complete=says is not None and prefixes is not None and _says(target, "produced_metrics"),
    )
    return [*family, parent]


def _children(config: CallBackBaseConfig, path: Path | None) -> Iterator[tuple[Path | None, CallBackBaseConfig]]:
    for field in type(config).model_fields:
        value = getattr(config, field)
        for index, child in enumerate(value if isinstance(value, list) else ()):
            if isinstance(child, CallBackBaseConfig):
                yield (None if path is None else (*path, field, index)), child


def _says(target: Any, declaration: str) -> bool:
    """Whether a class makes a declaration itself: an inherited one is about another class."""
    return declaration in vars(target)
