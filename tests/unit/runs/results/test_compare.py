"""Groups of seeds, their spread, and the differences between them."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.errors import UsageError
from noether.runs.results.compare import compare_runs, compared
from noether.runs.results.summary import RunSummary

Made = Callable[..., RunSummary]
KEY = "loss/test/total"


def group(made: Made, lr: float, values: list[float], key: str = KEY) -> list[tuple[str, RunSummary]]:
    return [
        ("", made(f"{lr}-{seed}", {"seed": seed, "output": f"o{seed}", "lr": lr}, {key: value}))
        for seed, value in enumerate(values)
    ]


def test_runs_that_differ_in_the_seed_only_are_one_group(four_runs: Path) -> None:
    found = compare_runs(["lr0.01-seed0", "lr0.001-seed1", "lr0.01-seed1", "lr0.001-seed0"], four_runs)
    ids = [[run.run_id for run in group.runs] for group in found.groups]
    assert ids == [["lr0.01-seed0", "lr0.01-seed1"], ["lr0.001-seed1", "lr0.001-seed0"]]
    assert [group.seeds for group in found.groups] == [[0, 1], [0, 1]]
    assert found.settings == {"model.optimizer.lr": [0.01, 0.001]}
    assert {"loss/test/total", "rmse/test/y"} <= {row.key for row in found.rows}


def test_mean_and_deviation_are_those_over_the_seeds(made: Made) -> None:
    (row,) = compared([*group(made, 0.1, [1.0, 2.0, 4.0]), *group(made, 0.2, [7.0])]).rows
    first, second = row.samples
    assert first is not None
    assert second is not None
    assert first.mean == pytest.approx(7 / 3)
    assert first.deviation == pytest.approx(statistics.stdev([1, 2, 4]))
    assert (second.mean, second.deviation) == (7.0, None)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=5),
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=5),
    st.sampled_from([KEY, "accuracy/test/y", "mine"]),
)
def test_a_difference_is_beyond_the_spread_if_it_exceeds_two_standard_errors(
    made: Made, first: list[float], second: list[float], key: str
) -> None:
    found = compared([*group(made, 0.1, first, key), *group(made, 0.2, second, key)]).rows[0].differences[1]
    assert found is not None
    difference = statistics.fmean(second) - statistics.fmean(first)
    error = math.sqrt(statistics.variance(first) / len(first) + statistics.variance(second) / len(second))
    assert found.value == pytest.approx(difference, rel=1e-6, abs=1e-6)
    assert found.margin == pytest.approx(2 * error, rel=1e-6, abs=1e-6)
    if abs(abs(difference) - 2 * error) > 1e-3:
        assert found.verdict == ("beyond" if abs(difference) > 2 * error else "within")
    if found.value:
        expected = {KEY: found.value < 0, "accuracy/test/y": found.value > 0, "mine": None}[key]
        assert found.is_better is expected


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([1.0, 2.0], [2.0]), ([1.0], [2.0, 3.0])])
def test_one_seed_has_no_spread(made: Made, first: list[float], second: list[float]) -> None:
    found = compared([*group(made, 0.1, first), *group(made, 0.2, second)]).rows[0].differences[1]
    assert found is not None
    assert (found.margin, found.verdict) == (None, "unknown")


def test_a_seed_that_was_run_twice_shows_no_spread(made: Made) -> None:
    again = [("", made("again", {"seed": 0, "lr": 0.1}, {KEY: 1.0}))]
    (row,) = compared([*group(made, 0.1, [1.0]), *again, *group(made, 0.2, [3.0, 4.0])]).rows
    assert row.samples[0] is not None
    assert row.samples[0].deviation is None


def test_a_value_that_is_no_number_makes_the_spread_unknown(made: Made) -> None:
    found = compared([*group(made, 0.1, [1.0, math.nan]), *group(made, 0.2, [3.0, 4.0])]).rows[0].differences[1]
    assert found is not None
    assert (found.verdict, found.is_better) == ("unknown", None)


@pytest.mark.parametrize(
    ("values", "mean"), [([1.7e308, 1.7e308], 1.7e308), ([1.7e308, -1.7e308], 0.0), ([math.inf, -math.inf], math.nan)]
)
def test_values_at_the_ends_of_the_numbers_have_a_mean(made: Made, values: list[float], mean: float) -> None:
    (row,) = compared([*group(made, 0.1, values), *group(made, 0.2, [1.0, 2.0])]).rows
    sample, difference = row.samples[0], row.differences[1]
    assert sample is not None
    assert difference is not None
    assert sample.mean == pytest.approx(mean, nan_ok=True)
    assert difference.verdict == ("beyond" if values[0] == values[1] else "unknown")


def test_a_metric_that_one_group_lacks_has_no_difference(made: Made) -> None:
    runs = [("", made("a", {"lr": 1}, {KEY: 1.0})), ("", made("b", {"lr": 2}, {"mine": 1.0}))]
    assert [row.differences for row in compared(runs).rows] == [[None, None], [None, None]]


def test_best_values_are_compared_if_asked_for(four_runs: Path) -> None:
    found = compare_runs(["lr0.01-seed0", "lr0.001-seed0"], four_runs, metrics=["rmse/test/y"], best=True)
    assert [sample and sample.mean for sample in found.rows[0].samples] == [
        run.evaluated("rmse/test/y").best for group in found.groups for run in group.runs
    ]


def test_runs_of_different_patterns_are_never_one_group(four_runs: Path) -> None:
    found = compare_runs(["*-seed0", "*-seed1"], four_runs)
    assert [len(group.runs) for group in found.groups] == [1, 1, 1, 1]
    assert len(compare_runs(["*"], four_runs).groups) == 2


def test_a_run_that_is_named_twice_counts_once(four_runs: Path) -> None:
    given = ["lr0.01-seed0", str(four_runs / "lr0.01-seed0"), "lr0.01-*", "lr0.001-seed0"]
    assert [len(group.runs) for group in compare_runs(given, four_runs).groups] == [1, 1, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["lr0.01-seed0"], "found 1 run to compare"),
        (["lr0.02-*"], "matches 'lr0.02-*'"),
        (["lr0.01-seed0", "lr0.01-sed1"], "Did you mean 'lr0.01-seed1'?"),
        (["lr0.01-seed0", "damaged"], "cannot be compared"),
    ],
)
def test_what_cannot_be_compared_is_explained(four_runs: Path, tmp_path: Path, given: list[str], said: str) -> None:
    runs = Path(shutil.copytree(four_runs, tmp_path / "runs"))
    shutil.copytree(runs / "lr0.01-seed0", runs / "damaged")
    shutil.rmtree(runs / "damaged" / "checkpoints")
    (runs / "damaged" / "spec.resolved.toml").write_text("spec = ")
    with pytest.raises(UsageError) as caught:
        compare_runs(given, runs)
    assert said in caught.value.message


def test_a_metric_that_no_run_has_is_refused_with_the_one_meant(four_runs: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'rmse/test/y'"):
        compare_runs(["*"], four_runs, metrics=["rmse/test/x"])
