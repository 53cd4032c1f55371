"""Write a spec out with every default, so that running the result again is the same run."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import tomli_w

from noether.core.schemas.registry_base import component_of
from noether.spec.configs import configs_in
from noether.spec.model import RunSpec
from noether.spec.plain import plain
from noether.spec.problem import toml_path


def resolved_toml(spec: RunSpec) -> str:
    """Return the TOML text of a loaded spec: all defaults, canonical kinds and ids, and their origins.

    Raises:
        SpecError: A config holds a value that TOML cannot express.
    """
    return tomli_w.dumps({**resolved_tables(spec), "resolved": _origins(spec)})


def resolved_tables(spec: RunSpec) -> dict[str, Any]:
    """Return the tables of a loaded spec with every default, as plain values.

    Raises:
        SpecError: A config holds a value that TOML cannot express.
    """
    return plain(spec.model_dump(mode="json", exclude_none=True, exclude={"resolved"}))


def _origins(spec: RunSpec) -> dict[str, Any]:
    kinds = {
        toml_path(path): f"{component.kind} from {component.origin}"
        for path, component in ((path, component_of(config)) for path, config in configs_in(spec))
    }
    return {"noether": version("noether-train"), "kinds": kinds}
