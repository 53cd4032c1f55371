"""Fill in what a valid spec leaves out and only its surroundings know: ids of callbacks, folders of paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from noether.core.schemas.callbacks import CallBackBaseConfig
from noether.spec.configs import configs_in
from noether.spec.ids import item_ids
from noether.spec.model import RunSpec


def complete(spec: RunSpec, folder: Path) -> None:
    """Give every callback its id and make input paths absolute, in place.

    Args:
        spec: A validated spec.
        folder: What relative paths start from: the folder of the spec file.
    """
    siblings: dict[tuple[str | int, ...], list[CallBackBaseConfig]] = {}
    for path, config in configs_in(spec):
        if isinstance(config, CallBackBaseConfig):
            siblings.setdefault(path[:-1], []).append(config)
        for field in config.path_fields:
            setattr(config, field, _absolute(getattr(config, field), folder))
    for callbacks in siblings.values():
        tables = [{"id": config.id, "kind": config.kind} for config in callbacks]
        for config, name in zip(callbacks, item_ids(tables, "callback"), strict=True):
            config.id = name


def _absolute(value: Any, folder: Path) -> Any:
    """Return a path, or the paths of a list or table, absolute and of the type that it has; a URL stays."""
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    if isinstance(value, dict):
        return {key: _absolute(item, folder) for key, item in value.items()}
    if isinstance(value, Path):
        return folder / value.expanduser()
    if isinstance(value, str) and "://" not in value:
        return str(folder / Path(value).expanduser())
    return value
