"""What `spec diff` compares: a spec file, or a run by its folder or id."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESOLVED = "spec.resolved.toml"


def tables_of(side: str, runs: Path, trusted: Iterable[str]) -> dict[str, Any]:
    """Return the resolved tables of a spec or a run.

    What a run folder keeps is taken as it is, so that runs of components that are no longer installed can be compared.

    Raises:
        SpecError: There is nothing of this name, or the spec is wrong.
    """
    from noether.kernel.registry import use_registry
    from noether.spec.load import load_spec
    from noether.spec.resolve import resolved_tables

    folder = _run_folder(side, runs)
    if folder is not None:
        return tomllib.loads((folder / RESOLVED).read_text(encoding="utf-8"))
    loaded = load_spec(_spec_file(side, runs), trusted=trusted)
    with use_registry(loaded.registry):
        return resolved_tables(loaded.spec)


def _run_folder(side: str, runs: Path) -> Path | None:
    for folder in (Path(side), runs / side):
        if (folder / RESOLVED).is_file():
            return folder
    return None


def _spec_file(side: str, runs: Path) -> Path:
    from noether.errors import SpecError
    from noether.kernel.names import did_you_mean

    if Path(side).is_dir():
        raise SpecError(f"{side} is no run folder: it has no {RESOLVED}")
    if not Path(side).exists() and not side.endswith(".toml"):
        known = sorted(folder.name for folder in runs.iterdir()) if runs.is_dir() else []
        raise SpecError(
            f"there is no spec or run {side!r}.{did_you_mean(side, known)}",
            hint=f"a run id is looked up in {runs}; --runs names another folder",
        )
    return Path(side)
