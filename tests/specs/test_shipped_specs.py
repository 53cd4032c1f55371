"""Every shipped spec is valid, and its resolved form is the same run."""

from pathlib import Path

import pytest

from noether.kernel.registry import use_registry
from noether.spec.load import load_spec
from noether.spec.model import resolved_toml

PLUGIN_SPECS = {"darcy"}  # tested by the plugins that they need
SPECS = sorted(path for path in (Path(__file__).parents[2] / "specs").rglob("*.toml") if path.stem not in PLUGIN_SPECS)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_shipped_spec_is_valid_and_resolves_to_the_same_run(path: Path, tmp_path: Path):
    loaded = load_spec(path)
    resolved = tmp_path / "spec.resolved.toml"
    with use_registry(loaded.registry):
        resolved.write_text(resolved_toml(loaded.spec))
    assert load_spec(resolved).spec == loaded.spec
