"""The shipped specs reach the metrics that they promise."""

import math
import tomllib
from pathlib import Path

import pytest

import noether
from noether.data.build import build_dataset
from noether.kernel.registry import use_registry
from noether.spec.load import load_spec

SPECS = Path(__file__).parents[2] / "specs"
RMSE = "rmse/test/elevation"
WITHOUT_TRACKER = {"trackers": [{"kind": "noop"}], "device": "cpu"}


def test_the_smoke_spec_reads_digits_in_seconds(workplace):
    outcome = noether.run(SPECS / "smoke/digits.toml", set=WITHOUT_TRACKER, quiet=True)
    assert outcome.error is None
    assert outcome.metrics["accuracy/test/label"] >= 0.96


def test_the_smoke_spec_demands_that_itself():
    expected = tomllib.loads((SPECS / "smoke/digits.toml").read_text())["expect"]
    assert expected["accuracy/test/label"]["min"] >= 0.96


def test_the_flagship_demands_a_third_of_the_error_of_predicting_the_mean():
    loaded = load_spec(SPECS / "experiment.toml")
    with use_registry(loaded.registry):
        train, test = (build_dataset(loaded.spec.datasets[key], seed=loaded.spec.seed) for key in ("train", "test"))
    mean = train.properties["elevation_target"].double().mean()
    of_the_mean = (test.properties["elevation_target"].double() - mean).square().mean().sqrt().item()
    assert 0 < loaded.spec.expect[RMSE].max <= of_the_mean / 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_flagship_meets_what_it_demands(workplace):
    outcome = noether.run(SPECS / "experiment.toml", set=WITHOUT_TRACKER, quiet=True)
    assert outcome.error is None
    assert math.isfinite(outcome.metrics[RMSE])
    assert outcome.metrics[RMSE] <= 54.3
