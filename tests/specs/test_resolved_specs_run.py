"""A resolved spec trains the same run as its source, bit for bit."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

import noether
from noether.cli.main import app
from noether.runs.outcome import Outcome

SHORT = {"trackers": [{"kind": "noop"}], "device": "cpu", "threads": 1, "trainer.max_epochs": 1, "expect": None}


def test_a_resolved_spec_ends_in_the_same_weights(
    shipped_spec: Path, workplace: Path, final_weights: Callable[[Outcome], bytes]
):
    resolved = workplace / "resolved.toml"
    assert CliRunner().invoke(app, ["spec", "resolve", str(shipped_spec), "-o", str(resolved)]).exit_code == 0
    digests = set()
    for file in (shipped_spec, resolved):
        changes = dict(SHORT)
        if shipped_spec.name == "experiment.toml":  # a checkpoint every fifth epoch would never be due
            changes["trainer.callbacks"] = []
        outcome = noether.run(file, set=changes, quiet=True)
        assert outcome.error is None
        digests.add(hashlib.sha256(final_weights(outcome)).hexdigest())
    assert len(digests) == 1
