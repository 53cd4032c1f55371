"""Fill in what a valid spec leaves out and only its surroundings know: ids of callbacks, folders of paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from noether.config.components import CallBackBaseConfig
from noether.spec.configs import configs_in
from noether.spec.fields import item_at
from noether.spec.ids import item_ids
from noether.spec.locate import TomlPath
from noether.spec.model import RunSpec
from noether.spec.origins import Origins
from noether.spec.plain import plain
from noether.spec.reference import KeptReference, Reference


def complete(
    spec: RunSpec, origins: Origins, folder: Path, references: Mapping[TomlPath, Reference] | None = None
) -> None:
    """Give every callback its id, make input paths absolute and note what the environment said, in place.

    Args:
        spec: A validated spec.
        origins: Where its values come from: a path is relative to the folder of the file that says it, and to the
            working folder where the command line, Python or the environment does.
        folder: What paths start from that are defaults: the folder of the spec file.
        references: The values that the environment holds.
    """
    references = references or {}

    def start_of(path: TomlPath) -> Path:
        if path in references and references[path].text() is not None:
            return Path.cwd()
        sources = origins.of(path)
        return sources[0].layer.folder if sources else folder

    siblings: dict[TomlPath, list[CallBackBaseConfig]] = {}
    kept = dict(references)
    for path, config in configs_in(spec):
        if isinstance(config, CallBackBaseConfig):
            siblings.setdefault(path[:-1], []).append(config)
        for field in config.path_fields:
            place = (*path, field)
            setattr(config, field, _absolute(getattr(config, field), place, start_of))
            kept |= {path: _settled(path, kept[path], origins) for path in kept if path[: len(place)] == place}
    for callbacks in siblings.values():
        tables = [{"id": config.id, "kind": config.kind} for config in callbacks]
        for config, name in zip(callbacks, item_ids(tables, "callback"), strict=True):
            config.id = name
    _keep(spec, kept)


def _absolute(value: Any, path: TomlPath, start_of: Callable[[TomlPath], Path]) -> Any:
    """Return a path, or the paths of a list or table, absolute and of the type that it has; a URL stays."""
    if isinstance(value, list):
        return [_absolute(item, (*path, index), start_of) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _absolute(item, (*path, key), start_of) for key, item in value.items()}
    if isinstance(value, Path):
        return start_of(path) / value.expanduser()
    if isinstance(value, str) and "://" not in value:
        return str(start_of(path) / Path(value).expanduser())
    return value


def _settled(path: TomlPath, reference: Reference, origins: Origins) -> Reference:
    """Return a reference to a path whose default no longer depends on the file that it is written in."""
    if "default" not in reference.table:
        return reference
    folder = origins.of(path)[0].layer.folder
    default = plain({"default": _absolute(reference.table["default"], path, lambda _: folder)})
    return Reference(reference.table | default)


def _keep(spec: RunSpec, references: Mapping[TomlPath, Reference]) -> None:
    """Let dumps of the spec say the references instead of what they stand for."""
    if not references:
        return
    dumped = spec.model_dump(mode="json", exclude_none=True)
    for path, reference in references.items():
        value: Any = dumped
        for part in path:
            value = item_at(value, part)
        spec._references[path] = KeptReference(reference, value)
