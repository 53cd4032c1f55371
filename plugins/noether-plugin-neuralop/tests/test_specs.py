"""The shipped specs are valid, and without data one error says what to type."""

import subprocess
import sys
from pathlib import Path

import pytest

import noether
from noether.errors import DataError

HERE = Path(__file__).parents[1]
SPECS = sorted([*(HERE / "specs").glob("*.toml"), HERE.parents[1] / "specs" / "darcy.toml"])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem)
def test_a_spec_is_valid(spec: Path):
    assert noether.load_spec(spec).spec.name


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem)
def test_without_data_the_line_to_type_is_named(spec: Path, tmp_path: Path):
    folders = {f"datasets.{key}.folder": str(tmp_path / "data") for key in noether.load_spec(spec).spec.datasets}
    with pytest.raises(DataError, match="does not exist") as error:
        noether.run(spec, set={**folders, "output": str(tmp_path / "runs")}, quiet=True)
    assert error.value.hint == f"noether neuralop-data {tmp_path / 'data'}"


@pytest.mark.long
@pytest.mark.parametrize("spec", ["darcy", "burgers"])
def test_a_spec_reaches_what_it_expects(spec: str, tmp_path: Path):
    path = next(one for one in SPECS if one.stem == spec)
    subprocess.run([sys.executable, "-m", "noether", "neuralop-data", str(tmp_path / "data")], check=True)
    folders = {f"datasets.{key}.folder": str(tmp_path / "data") for key in noether.load_spec(path).spec.datasets}
    settings = {"output": str(tmp_path / "runs"), "threads": 1, "trackers": [{"kind": "noop"}]}
    outcome = noether.run(path, set={**folders, **settings}, quiet=True)
    assert outcome.error is None, outcome.error
