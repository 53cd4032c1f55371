"""The page of the built-in callbacks: purpose, an excerpt of a spec, metrics and options of each."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from noether.config.base import _RegistryBase
from noether.config.components import CallBackBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.config.discriminated import Discriminated, config_class_of
from noether.config.metric_facts import MetricFacts
from noether.kernel.entries import Entry
from noether.kernel.registry import Registry
from noether.training.default_callbacks import ONE_SHOT, PRODUCERS, TRACKED
from reference_pages.kinds import built_in
from reference_pages.markdown import fields_table, prose

TITLES = {
    "noether.training.callbacks": "Evaluation",
    "noether.core.callbacks.checkpoint": "Checkpoints and averaged weights",
    "noether.core.callbacks.online": "Following training",
    "noether.core.callbacks.early_stoppers": "Stopping early",
    "noether.core.callbacks.default": "Defaults",
}
"""Titles of modules and packages of callbacks, in the order of the page; others have their own name as title."""

_INTRODUCTION = """
# Callbacks

Callbacks are in `[[trainer.callbacks]]`, and are called in the order of the spec. Their metrics are in `metrics.jsonl`
and in the trackers. The metric keys below an excerpt are those of the excerpt: `{field}` is each field of
`weighted-loss`, and `*` a part that only the run decides.
"""

_INTERVAL = """
A callback with an interval takes exactly one of these options. `every_n_epochs = 2` acts after the second epoch, the
fourth, and so on.
"""

_FACTS = MetricFacts(losses=("{field}_loss",), dataset_keys=("train", "test"))
_EXCERPT = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CONFIG: TypeAdapter[CallBackBaseConfig] = TypeAdapter(Annotated[Any, Discriminated("callback")])


def page() -> str:
    """Return the page."""
    parts = [
        _INTRODUCTION.strip(),
        "## Options of every callback",
        _INTERVAL.strip(),
        fields_table(_beside(_RegistryBase, CallBackBaseConfig)),
        "## Options of evaluation passes",
        "For callbacks that run over a data set when their interval fires.",
        fields_table(_beside(CallBackBaseConfig, PeriodicDataIteratorCallbackConfig)),
    ]
    for package, entries in _by_package().items():
        parts += [f"## {_title(package)}", _about(package), *map(_section, entries)]
    return "\n\n".join(parts)


def excerpt_of(target: Any) -> str:
    """Return the excerpt of a spec in a class's docstring, empty if there is none."""
    found = _EXCERPT.search(inspect.getdoc(target) or "")
    return found[1] if found else ""


def _by_package() -> dict[str, list[Entry]]:
    """Return the built-in callbacks by the module or package of `TITLES` that they are defined in."""
    packages: dict[str, list[Entry]] = defaultdict(list)
    for entry in built_in("callback"):
        module = entry.target.partition(":")[0]
        package = module.rpartition(".")[0]
        packages[module if module in TITLES else package].append(entry)
    known = [package for package in TITLES if package in packages]
    return {package: packages[package] for package in dict.fromkeys([*known, *sorted(packages)])}


def _title(package: str) -> str:
    return TITLES.get(package) or package.rpartition(".")[2].replace("_", " ").capitalize()


def _about(package: str) -> str:
    """Return the docstring of a package; for the defaults, the list of those in every run."""
    words = prose(import_module(package))
    if not package.endswith(".default"):
        return words
    names = ", ".join(f"`{kind}`" for kind in (*PRODUCERS, *ONE_SHOT, "progress", *TRACKED))
    return (
        f"Every run has {names}, and with `monitor_training_stability = true` also `training-stability`. "
        "`log_every_n_*` under `[trainer]` is the interval of `progress`, `track_every_n_*` that of the others. "
        "Producers of metrics run before the callbacks of the spec, the others after them. With "
        "`add_default_callbacks = false` a run has none of these but those that its spec names."
    )


def _section(entry: Entry) -> str:
    target = Registry.installed().load("callback", entry.name).target
    config_class = config_class_of(target, "callback")
    iterates = issubclass(config_class, PeriodicDataIteratorCallbackConfig)
    own = _beside(PeriodicDataIteratorCallbackConfig if iterates else CallBackBaseConfig, config_class)
    parts = [f"### {entry.name}", prose(target), *_metrics(target, entry.name)]
    parts += ["Takes no interval."] * (not config_class.needs_interval)
    parts += ["Takes the [options of evaluation passes](#options-of-evaluation-passes)."] * iterates
    return "\n\n".join([*parts, fields_table(own) if own else "No options of its own."])


def _beside(base: type[_RegistryBase], config_class: type[_RegistryBase]) -> dict[str, FieldInfo]:
    """Return the fields that a config has beside those of `base`."""
    return {name: field for name, field in config_class.model_fields.items() if name not in base.model_fields}


def _metrics(target: Any, kind: str) -> list[str]:
    """Return the metrics that a callback logs and reads if it is configured as in its excerpt."""
    config = _configured(target, kind)
    logged, read = target.produced_metrics(config, _FACTS), target.consumed_metrics(config)
    sentences = []
    if logged is not None:
        sentences.append(f"Logs {_keys(logged)}." if logged else "Logs no metric of its own.")
    if read:
        sentences.append(f"Reads {_keys(read)}, to be logged in the same round by callbacks before it.")
    if prefixes := target.child_metric_prefixes(config):
        sentences.append(f"Metrics of its children begin with {_keys(prefixes)}.")
    return [" ".join(sentences)] if sentences else []


def _configured(target: Any, kind: str) -> CallBackBaseConfig:
    tables = tomllib.loads(excerpt_of(target)).get("trainer", {}).get("callbacks", [])
    of_this_kind = (table for table in tables if table["kind"] == kind)
    return _CONFIG.validate_python(next(of_this_kind, {"kind": kind}))


def _keys(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)
