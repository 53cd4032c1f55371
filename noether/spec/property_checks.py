"""Properties that are asked for and that a data set says it has not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noether.config.base import component_of
from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.kernel.names import did_you_mean
from noether.spec.configs import Path
from noether.spec.finding import Finding
from noether.spec.model import RunSpec
from noether.spec.problem import Problem, quoted


def property_findings(spec: RunSpec) -> Iterator[Finding]:
    """Yield names of properties that a data set has not, for those that say what they have."""
    known = {key: _known_properties(spec, key) for key in spec.datasets}
    first = "train" if "train" in spec.datasets else next(iter(spec.datasets), None)
    wanted: list[tuple[Path, str | None, Sequence[str]]] = [
        (("trainer", field), first, getattr(spec.trainer, field))
        for field in ("forward_properties", "target_properties")
    ]
    for index, config in enumerate(spec.trainer.callbacks or []):
        if isinstance(config, PeriodicDataIteratorCallbackConfig):
            key = config.dataset_key or next(iter(spec.datasets), None)
            wanted.append((("trainer", "callbacks", index, "properties"), key, config.properties or ()))
    for index, transform in enumerate(spec.transforms):
        if _keeps_properties(transform):
            wanted.append((("transforms", index, "properties"), first, getattr(transform, "properties", ())))
    for path, key, names in wanted:
        yield from _missing(path, key, names, known)


def _missing(
    path: Path, key: str | None, names: Sequence[str], known: Mapping[str, tuple[str, ...] | None]
) -> Iterator[Finding]:
    present = known.get(key or "")
    if present is None:
        return
    for index, name in enumerate(names):
        if name not in present:
            message = f"the data set {quoted(key or '')} has no property {quoted(name)}.{did_you_mean(name, present)}"
            yield Finding(Problem((*path, index), message, f"it has {', '.join(present)}"))


def _known_properties(spec: RunSpec, key: str) -> tuple[str, ...] | None:
    """Return the properties of a data set after its transforms, or None where they cannot be told."""
    config = spec.datasets[key]
    target = component_of(config).target
    if "known_properties" not in vars(target) or not all(
        map(_keeps_properties, (*config.transforms, *spec.transforms))
    ):
        return None
    properties: tuple[str, ...] | None = target.known_properties(config)
    return properties


def _keeps_properties(transform: Any) -> bool:
    return bool(getattr(component_of(transform).target, "keeps_properties", False))
