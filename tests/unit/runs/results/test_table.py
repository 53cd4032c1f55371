"""Filter, order and columns of the table of runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.errors import UsageError
from noether.runs.results.summary import RunSummary
from noether.runs.results.table import in_order, main_metrics, parse_condition, table_of, value_of
from noether.spec.errors.words import toml_literal
from noether.spec.overlay import ABSENT, same_value

Made = Callable[..., RunSummary]

CALLBACKS = [{"id": "ema", "kind": "ema", "every_n_epochs": 2}, {"id": "a=b", "kind": "checkpoint"}]


def spec(**model: Any) -> dict[str, Any]:
    return {"seed": 0, "model": {"kind": "mlp", "hidden": [64], **model}, "trainer": {"callbacks": CALLBACKS}}


@pytest.fixture
def runs(made: Made) -> list[RunSummary]:
    """Three runs: a narrow one, a wide one, and one without metrics whose spec has dropout."""
    return [
        made("narrow", spec(), {"rmse/test/y": 3.0, "ema=0.9/loss/test/total": 0.5}, created=100.0),
        made("wide", spec(hidden=[128]), {"rmse/test/y": 2.0, "ema=0.9/loss/test/total": 0.2}, created=200.0),
        made("dropout", spec(dropout=0.5, act="x<y"), {}, status="FAILED", created=300.0, update=3),
    ]


@pytest.fixture
def chosen(runs: list[RunSummary]) -> Callable[[str], list[str]]:
    """Returns the ids of the runs that fulfil a condition."""
    return lambda text: [run.run_id for run in runs if parse_condition(text, runs).holds(run)]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("model.hidden=[64]", ["narrow", "dropout"]),
        ("model.hidden = [ 64 ]", ["narrow", "dropout"]),
        ("model.hidden!=[64]", ["wide"]),
        ("model.kind=mlp", ["narrow", "wide", "dropout"]),
        ('model.kind=="mlp"', ["narrow", "wide", "dropout"]),
        ("model.dropout=0.5", ["dropout"]),
        ("model.dropout!=0.5", ["narrow", "wide"]),
        ("model.dropout=unset", ["narrow", "wide"]),
        ("model.dropout>0", ["dropout"]),
        ("model.act=x<y", ["dropout"]),
        ("rmse/test/y<2.5", ["wide"]),
        ("rmse/test/y<=3", ["narrow", "wide"]),
        ("rmse/test/y/best>2.5", ["narrow"]),
        ("ema=0.9/loss/test/total<0.5", ["wide"]),
        ('"ema=0.9/loss/test/total">=0.5', ["narrow"]),
        ("trainer.callbacks[ema].every_n_epochs=2", ["narrow", "wide", "dropout"]),
        ("trainer.callbacks.1.kind=checkpoint", ["narrow", "wide", "dropout"]),
        ("trainer.callbacks[a=b].kind=checkpoint", ["narrow", "wide", "dropout"]),
        ("status=FAILED", ["dropout"]),
        ("status!=failed", ["narrow", "wide"]),
        ("updates>=10", ["narrow", "wide"]),
        ("id!=wide", ["narrow", "dropout"]),
        ("created<1990-01-01", ["narrow", "wide", "dropout"]),
        ("created>1990-01-01", []),
        ("created=1970-01-01", ["narrow", "wide", "dropout"]),
        ("created>1970", []),
        ("created<1970-01-01 00:03:00", ["narrow"]),
        ('model.kind="m l p"', []),
    ],
)
def test_a_condition_chooses_runs(chosen: Callable[[str], list[str]], condition: str, expected: list[str]) -> None:
    assert chosen(condition) == expected


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("model.hidden", "expected a name"),
        ("=3", "expected a name"),
        ("", "expected a name"),
        ("model.hiden=[64]", "Did you mean 'model.hidden'?"),
        ("rmse/test/x<3", "Did you mean 'rmse/test/y'?"),
        ("model.hidden=", "found no value"),
        ("model.hidden=[64", "a value in TOML"),
        ("model.kind<mlp", "a number after <"),
        ("created>3", "a date"),
        ("created>=yesterday", "a date"),
        ("created>=2026-01-01 or so", "a date"),
        ("model.hidden>3", "stands for a number"),
        ("seed=0 or seed=1", "one condition"),
        ("status=done", "a status of a run"),
        ("model\x1b.x=1", "model\\x1b"),
    ],
)
def test_a_wrong_condition_is_explained(runs: list[RunSummary], condition: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_condition(condition, runs)
    assert said in caught.value.message


numbers = st.one_of(st.booleans(), st.integers(-(10**6), 10**6), st.floats(allow_nan=False))
values = st.one_of(numbers, st.text(max_size=8), st.lists(st.integers(-9, 9), max_size=3))
metric_keys = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)


@given(value=values, key=st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True))
def test_a_setting_written_as_toml_is_found_again(made: Made, key: str, value: Any) -> None:
    run = made("a", {"table": {key: value}}, {})
    text = f"table.{key}={toml_literal(value)}"
    assert parse_condition(text, [run]).holds(run)
    assert not parse_condition(text.replace("=", "!=", 1), [run]).holds(run)


@given(key=metric_keys.filter(lambda key: key == key.strip()), value=st.floats(allow_nan=False, allow_infinity=False))
def test_any_metric_key_can_be_filtered_by(made: Made, key: str, value: float) -> None:
    key = f"loss/{key}"
    run = made("a", {}, {key: value})
    assert value_of(run, key) == value
    assert parse_condition(f"{key}<={value!r}", [run]).holds(run)
    assert not parse_condition(f"{key}<{value!r}", [run]).holds(run)


@given(st.text(max_size=30))
def test_no_text_is_more_than_a_wrong_condition(made: Made, text: str) -> None:
    run = made("a", spec(), {"rmse/test/y": 3.0})
    try:
        parse_condition(text, [run]).holds(run)
    except UsageError as error:
        assert error.message.isprintable()


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=8))
def test_runs_are_sorted_and_those_without_a_number_come_last(made: Made, metrics: list[float | None]) -> None:
    runs = [made(str(n), {}, {} if value is None else {"rmse/y": value}) for n, value in enumerate(metrics)]
    for name, falls in (("rmse/y", False), ("-rmse/y", True)):
        found = [value_of(run, "rmse/y") for run in in_order(runs, name)]
        numbers = [value for value in found if value is not ABSENT and not math.isnan(value)]
        assert found[: len(numbers)] == numbers == sorted(numbers, reverse=falls)
        assert len(found) == len(runs)


def test_the_columns_are_the_settings_that_differ(runs: list[RunSummary]) -> None:
    table = table_of(runs)
    assert table.settings == {
        "model.hidden": [[64], [128], [64]],
        "model.dropout": [ABSENT, ABSENT, 0.5],
        "model.act": [ABSENT, ABSENT, "x<y"],
    }
    assert list(table.metrics) == ["rmse/test/y", "ema=0.9/loss/test/total"]


def test_a_run_without_a_spec_has_no_settings_and_makes_none_differ(made: Made, runs: list[RunSummary]) -> None:
    assert table_of([runs[0], made("damaged", {}, {})]).settings == {}


def test_metrics_that_the_spec_expects_come_first(made: Made) -> None:
    metrics = {"loss/test/total": 1.0, "rmse/test/y": 1.0, "r2/test/y": 1.0, "loss/test/y_loss": 1.0}
    assert main_metrics([made("a", {}, metrics)]) == ["rmse/test/y", "r2/test/y"]
    assert main_metrics([made("a", {"expect": {"loss/test/total": {"max": 1}}}, metrics)])[0] == "loss/test/total"
    by_loss = {"trainer": {"callbacks": [{"kind": "best-checkpoint", "metric_key": "loss/test/y_loss"}]}}
    assert main_metrics([made("a", by_loss, metrics)])[0] == "loss/test/y_loss"


def test_a_metric_that_no_run_has_is_refused_with_the_one_meant(runs: list[RunSummary]) -> None:
    with pytest.raises(UsageError, match="Did you mean 'rmse/test/y'"):
        table_of(runs, ["rmse/test/yy"])


def test_true_and_one_are_not_the_same() -> None:
    assert same_value(1, 1.0)
    assert not same_value(True, 1)
