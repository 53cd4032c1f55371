"""The `[sweep]` table: paths, draws that are functions of seed and number, the metric, and wrong tables."""

from typing import Any

import pytest

from noether.config.components import SweepTable
from noether.errors import SpecError
from noether.spec.errors.problem import InvalidSpecError
from noether.spec.load import load_spec
from noether.spec.metric_checks import metric_flow
from noether.spec.sweep import arguments_of, drawn, known_trials, method_of, objective_of, swept_paths

LR = "model.optimizer.lr"


def table(**paths: Any) -> SweepTable:
    return SweepTable.model_validate(paths)


def spec_with(sweep: dict[str, Any], callbacks: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    offline = {
        "kind": "offline-metrics",
        "every_n_epochs": 1,
        "dataset_key": "test",
        "metrics": {"label": ["accuracy"]},
    }
    return {
        "datasets": {key: {"kind": "digits", "split": key} for key in ("train", "test")},
        "model": {"kind": "mlp", "out_features": {"label": 10}, "optimizer": {"kind": "AdamW", "lr": 1e-3}},
        "trainer": {
            "kind": "weighted-loss",
            "max_epochs": 3,
            "effective_batch_size": 64,
            "forward_properties": ["image"],
            "target_properties": ["label_target"],
            "field_weights": {"label": 1.0},
            "loss_fn": "cross-entropy",
            "callbacks": [offline] if callbacks is None else callbacks,
        },
        "sweep": sweep,
    }


def codes_of(sweep: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidSpecError) as error:
        load_spec(spec_with(sweep))
    return [problem.code for problem in error.value.problems]


def test_a_grid_has_every_combination_and_the_last_path_changes_fastest() -> None:
    found = known_trials(table(a=[1, 2], b=["x", "y"]))
    assert found == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_a_value_that_is_written_twice_is_one_trial() -> None:
    assert known_trials(table(a=[1, 1])) == [{"a": 1}]


def test_paths_are_written_in_quotes_or_as_tables() -> None:
    quoted, tables = table(**{LR: [0.1]}), table(model={"optimizer": {"lr": [0.1]}})
    assert [one.path for one in swept_paths(quoted)] == [one.path for one in swept_paths(tables)] == [LR]


def test_a_sweep_with_a_draw_is_random_unless_it_says_otherwise() -> None:
    mixed = table(a=[1], b={"uniform": [0.0, 1.0]})
    assert method_of(mixed, swept_paths(mixed)) == "random"
    assert method_of(table(a=[1]), swept_paths(table(a=[1]))) == "grid"


@pytest.mark.parametrize(
    ("draw", "kind"),
    [
        ({"uniform": [-1.0, 3.0]}, float),
        ({"log_uniform": [1e-4, 1e-1]}, float),
        ({"int_uniform": [2, 5]}, int),
        ({"choice": [1, 7]}, int),
    ],
)
def test_drawn_values_lie_within_their_bounds_and_reach_all_of_them(draw: dict[str, Any], kind: type) -> None:
    (one,) = swept_paths(table(a=draw))
    values = [drawn([one], 0, number)["a"] for number in range(1, 400)]
    assert all(type(value) is kind and one.allows(value) for value in values)
    low, high = one.values[0], one.values[-1]
    if kind is int:
        assert {low, high} <= set(values)
    else:
        shares = [one.at_share(0.0), one.at_share(1 - 1e-12)]
        assert shares == pytest.approx([low, high], rel=1e-5)


def test_half_of_the_values_of_a_log_uniform_draw_lie_below_its_geometric_mean() -> None:
    (one,) = swept_paths(table(a={"log_uniform": [1e-4, 1.0]}))
    assert one.at_share(0.5) == pytest.approx(1e-2)


def test_a_drawn_trial_depends_on_seed_number_and_path_alone() -> None:
    both = swept_paths(table(a={"uniform": [0.0, 1.0]}, b={"uniform": [0.0, 1.0]}))
    first = drawn(both, 0, 1)
    assert first == drawn(both[::-1], 0, 1)
    assert first["a"] == drawn(both[:1], 0, 1)["a"]
    assert first["a"] != first["b"]
    assert first["a"] != drawn(both, 1, 1)["a"]
    assert first["a"] != drawn(both, 0, 2)["a"]


def test_more_trials_of_a_random_sweep_begin_with_the_same_ones() -> None:
    def trials(number: int) -> list[dict[str, Any]] | None:
        return known_trials(table(a={"uniform": [0.0, 1.0]}, settings={"trials": number}))

    assert (trials(5) or [])[:3] == trials(3)


def test_drawn_numbers_stay_the_same_in_every_version() -> None:
    """A sweep that is continued with a later Python or Noether must not draw other values."""
    (one,) = swept_paths(table(**{LR: {"log_uniform": [1e-4, 1e-1]}}))
    assert [drawn([one], 0, number)[LR] for number in (1, 2, 3)] == FIRST_DRAWS


FIRST_DRAWS = [0.00406748, 0.000650196, 0.000306347]


def test_values_become_arguments_of_the_command_line() -> None:
    values = {LR: 0.01, "model.hidden": [8, 8], "model.kind": "mlp", "deterministic": True}
    assert arguments_of(values) == [f"{LR}=0.01", "model.hidden=[8, 8]", 'model.kind="mlp"', "deterministic=true"]


@pytest.mark.parametrize(
    ("sweep", "codes"),
    [
        ({LR: 3}, ["wrong-type"]),
        ({LR: []}, ["out-of-range"]),
        ({LR: {"log_uniform": [0.0, 1.0]}, "settings": {"trials": 2}}, ["wrong-value"]),
        ({LR: {"uniform": [2.0, 1.0]}, "settings": {"trials": 2}}, ["wrong-value"]),
        ({LR: {"int_uniform": [1.5, 2]}, "settings": {"trials": 2}}, ["wrong-value"]),
        ({LR: {"uniform": [1.0]}, "settings": {"trials": 2}}, ["wrong-value"]),
        ({"output": ["a", "b"], "sweep.settings.name": ["a", "b"]}, ["conflicting-keys"] * 2),
        ({LR: {"uniform": [1.0, 2.0], "choice": [3]}}, ["wrong-type"]),
        ({LR: {"choice": []}}, ["wrong-type"]),
        ({"a..b": [1]}, ["unknown-path"]),
        ({}, ["missing-key"]),
        ({LR: {"uniform": [1.0, 2.0]}}, ["missing-key"]),
        ({LR: {"uniform": [1.0, 2.0]}, "settings": {"method": "grid"}}, ["wrong-value"]),
        ({LR: [1.0], "settings": {"trials": 3}}, ["conflicting-keys"]),
        ({LR: [1.0], "settings": {"method": "random"}}, ["missing-key"]),
        ({"seed": list(range(300)), LR: [0.1 * n for n in range(1, 40)]}, ["out-of-range"]),
        ({LR: [1.0], "settings": {"metric": "accuracy/tset/label"}}, ["unlogged-metric"]),
        ({LR: [1.0], "settings": {"metric": "optim/lr"}}, ["unknown-direction"]),
        ({LR: [1.0], "settings": {"metod": "grid"}}, ["unknown-key"]),
    ],
)
def test_a_wrong_table_is_a_problem_of_the_spec(sweep: dict[str, Any], codes: list[str]) -> None:
    assert codes_of(sweep) == codes


def objective(sweep: dict[str, Any], callbacks: list[dict[str, Any]] | None = None) -> tuple[str, str, str]:
    spec = load_spec(spec_with(sweep, callbacks)).spec
    found = objective_of(spec, metric_flow(spec))
    return found.metric, found.direction, found.value


def test_trials_are_compared_by_the_first_metric_of_an_evaluation() -> None:
    assert objective({LR: [1.0]}) == ("accuracy/test/label", "higher", "final")


def test_trials_are_compared_by_the_metric_of_the_best_checkpoint() -> None:
    def offline(kind: str, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "every_n_epochs": 1, "dataset_key": "test", **more}

    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
    callbacks = [offline("offline-metrics", metrics={"label": ["accuracy"]}), offline("offline-loss"), best]
    assert objective({LR: [1.0]}, callbacks)[:2] == ("loss/test/total", "lower")


def test_the_settings_decide_metric_direction_and_value() -> None:
    settings = {"metric": "optim/lr", "direction": "higher", "value": "best"}
    assert objective({LR: [1.0], "settings": settings}) == ("optim/lr", "higher", "best")


def test_a_spec_that_logs_no_metric_with_a_direction_has_nothing_to_compare() -> None:
    lr = {"kind": "lr", "every_n_epochs": 1}
    with pytest.raises(SpecError, match="metric"):
        objective({LR: [1.0]}, [lr])
