"""A figure has a row for each sample: input, truth, prediction and error, in the units of the data."""

from pathlib import Path

import numpy as np
import pytest
from noether_plugin_neuralop.callbacks import drawn

import noether

SMOKE = Path(__file__).parents[1] / "specs" / "smoke.toml"


def test_a_row_has_its_error_in_words_and_colours():
    truth = np.linspace(0, 4, 16).reshape(4, 4)
    figure = drawn({"input": [truth > 2], "truth": [truth], "prediction": [1.1 * truth]}, "permeability", "pressure")
    shown = [place.images[0] for place in figure.axes if place.images]
    titles = [place.get_title() for place in figure.axes if place.get_title()]
    assert titles == ["permeability", "pressure: truth", "pressure: prediction", "error (10.0 % in L2)"]
    assert shown[1].get_clim() == shown[2].get_clim() == (0, 4)
    assert shown[3].get_clim() == pytest.approx((-0.4, 0.4))


@pytest.fixture(scope="module")
def outcome(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> noether.Outcome:
    folders = {f"datasets.{key}.folder": str(folder) for key in ("train", "test", "test32")}
    outcome = noether.run(SMOKE, set={**folders, "output": str(tmp_path_factory.mktemp("runs"))}, quiet=True)
    assert outcome.error is None, outcome.error
    return outcome


def test_a_run_keeps_a_figure_at_each_interval(outcome: noether.Outcome):
    results = noether.load_run(outcome.run_dir).results
    assert list(results["update"]) == [3, 6]
    assert set(results["key"]) == {"fields/test/pressure"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in results["path"])


def test_the_same_weights_are_tested_on_a_grid_that_training_has_not_seen(outcome: noether.Outcome):
    assert 0 < outcome.metrics["relative-l2/test32/pressure"] < 1
