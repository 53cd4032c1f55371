"""A spec whose averaged weights are evaluated by everything that evaluates the live ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noether.checkpoint.manifest import Manifest
from noether.checkpoint.state import callback_file
from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.checkpoint.ema import EmaCallbackConfig
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.spec.ids import item_ids
from noether.spec.model import RunSpec


def with_averaged_variants(spec: RunSpec, manifest: Manifest) -> RunSpec:
    """Return a spec in which each EMA has the run's own evaluations among its children.

    An EMA whose averages the step does not hold is left out, rather than evaluated with other weights.

    Args:
        spec: The run's spec.
        manifest: What the step to evaluate holds.
    """
    callbacks = list(spec.trainer.callbacks or [])
    ids = item_ids([{"id": config.id, "kind": config.kind} for config in callbacks], "callback")
    evaluating = [config for config in callbacks if _goes_through_data(config)]
    kept = []
    for identifier, config in zip(ids, callbacks, strict=True):
        if isinstance(config, EmaCallbackConfig):
            files = [callback_file(identifier, str(factor)) for factor in config.target_factors]
            if not manifest.files.keys() >= set(files):
                continue
            children = list(config.eval_callbacks or [])
            # First, so that a key which both log means what it meant in training.
            children = [*_others(evaluating, children), *children]
            config = config.model_copy(update={"id": identifier, "eval_callbacks": children})
        kept.append(config)
    trainer = spec.trainer.model_copy(update={"callbacks": kept})
    return spec.model_copy(update={"trainer": trainer})


def _others(evaluating: Sequence[CallBackBaseConfig], children: Sequence[CallBackBaseConfig]) -> list[Any]:
    """Return those that do what no child does, without an id where a child has the same."""
    known = [_what_it_does(child) for child in children]
    taken = {child.id for child in children}
    others = [other for other in evaluating if _what_it_does(other) not in known]
    return [other.model_copy(update={"id": None}) if other.id in taken else other for other in others]


def _goes_through_data(config: CallBackBaseConfig) -> bool:
    target = component_of(config).target
    return isinstance(target, type) and issubclass(target, PeriodicDataIteratorCallback)


def _what_it_does(config: CallBackBaseConfig) -> dict[str, Any]:
    """Return the settings of a callback without when it does it, and under which id."""
    return config.model_dump(exclude={"id", "every_n_epochs", "every_n_updates", "every_n_samples"})
