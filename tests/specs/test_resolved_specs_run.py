"""A resolved spec trains the same run as its source, bit for bit."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import noether
from noether.cli.main import app
from noether.runs.outcome import Outcome

PLUGIN_SPECS = {"darcy"}  # tested by the plugins that they need
SPECS = sorted(path for path in (Path(__file__).parents[2] / "specs").rglob("*.toml") if path.stem not in PLUGIN_SPECS)
SHORT = {"trackers": [{"kind": "noop"}], "device": "cpu", "threads": 1, "trainer.max_epochs": 1, "expect": None}


def resolve(spec: Path, target: Path) -> Path:
    """Write what `noether spec resolve` makes of a spec."""
    _command("spec", "resolve", str(spec), "-o", str(target))
    return target


def _command(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(params=SPECS, ids=lambda path: path.stem)
def spec(request: pytest.FixtureRequest, workplace: Path) -> Path:
    """Each spec that we ship."""
    return request.param


def test_resolving_what_is_resolved_gives_the_same_text(spec: Path):
    once = resolve(spec, Path("once.toml"))
    assert resolve(once, Path("twice.toml")).read_bytes() == once.read_bytes()


def test_a_spec_and_its_resolved_form_do_not_differ(spec: Path):
    assert "no difference" in _command("spec", "diff", str(spec), str(resolve(spec, Path("resolved.toml"))))


def test_a_resolved_spec_ends_in_the_same_weights(spec: Path, final_weights: Callable[[Outcome], bytes]):
    resolved = resolve(spec, Path("resolved.toml"))
    digests = set()
    for file in (spec, resolved):
        changes = dict(SHORT)
        if spec.name == "experiment.toml":  # a checkpoint every fifth epoch would never be due
            changes["trainer.callbacks"] = []
        outcome = noether.run(file, set=changes, quiet=True)
        assert outcome.error is None
        digests.add(hashlib.sha256(final_weights(outcome)).hexdigest())
    assert len(digests) == 1
