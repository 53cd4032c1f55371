"""The page of the built-in callbacks with their options."""

from __future__ import annotations

from noether.core.schemas.callbacks import CallBackBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.core.schemas.config_class import config_class_of
from noether.kernel.entry import Entry
from noether.kernel.registry import Registry
from noether.training.default_callbacks import ONE_SHOT, PRODUCERS, TRACKED
from reference_pages.kinds import built_in
from reference_pages.markdown import fields_table, prose

_INTRODUCTION = """
# Callbacks

A callback stands in `[[trainer.callbacks]]` and is called in the order of the spec. Its metrics appear in
`metrics.jsonl` and in the trackers under the keys named here.
"""


def page() -> str:
    """Return the page."""
    base = CallBackBaseConfig.model_fields
    iterating = {n: f for n, f in PeriodicDataIteratorCallbackConfig.model_fields.items() if n not in base}
    defaults = ", ".join(f"`{kind}`" for kind in (*PRODUCERS, *ONE_SHOT, "progress", *TRACKED))
    parts = [
        _INTRODUCTION.strip(),
        f"Every run has these without asking, unless `add_default_callbacks = false`: {defaults}; with "
        "`monitor_training_stability = true` also `training-stability`. Producers of metrics run before the callbacks "
        "of the spec, the others after them.",
        "## Options of every callback",
        "A spec gives exactly one interval to each callback that runs on one.",
        fields_table(base),
        "## Options of callbacks that go through a data set",
        fields_table(iterating),
        *(_section(entry, {*base, *iterating}) for entry in built_in("callback")),
    ]
    return "\n\n".join(parts)


def _section(entry: Entry, shared: set[str]) -> str:
    target = Registry.installed().load("callback", entry.name).target
    config_class = config_class_of(target, "callback")
    own = {name: field for name, field in config_class.model_fields.items() if name not in shared}
    interval = "" if getattr(config_class, "needs_interval", True) else "Takes no interval."
    options = fields_table(own) if own else "No options of its own."
    return "\n\n".join(part for part in (f"## {entry.name}", prose(target), interval, options) if part)
