"""Every kind of wrong input with its code, its path, and what its message names as expected."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from noether.spec.errors.problem import InvalidSpecError
from noether.spec.read.overrides import parse_path

MISSING = object()

WRONG: dict[str, tuple[str, Any, str, str]] = {
    "an unknown key": ("sed", 1, "unknown-key sed", "'seed'"),
    "an unknown key of a component": ("model.hiden", 1, "unknown-key model.hiden", "'hidden'"),
    "an unknown key of an optimizer": ("model.optimizer.lrr", 1, "unknown-key model.optimizer.lrr", "'lr'"),
    "an unknown key of a nested table": (
        "model.normalization",
        {"momentun": 0.1},
        "unknown-key model.normalization.momentun",
        "'momentum'",
    ),
    "an unknown key of a bound": ("expect.a", {"maxx": 1}, "unknown-key expect.a.maxx", "min, max, equals, tolerance"),
    "text for a boolean": ("deterministic", "yes", "wrong-type deterministic", "true or false"),
    "a number for a boolean": ("deterministic", 1, "wrong-type deterministic", "true or false"),
    "a fraction for an integer": ("seed", 1.5, "wrong-type seed", "an integer"),
    "a whole fraction for an integer": (
        "trainer.effective_batch_size",
        "4",
        "wrong-type trainer.effective_batch_size",
        "an integer",
    ),
    "a boolean for an integer": ("seed", True, "wrong-type seed", "an integer"),
    "text for a number": ("model.optimizer.lr", "1e-3", "wrong-type model.optimizer.lr", "a number"),
    "a boolean for a number": ("model.dropout", False, "wrong-type model.dropout", "a number"),
    "a number for text": ("output", 1, "wrong-type output", "a string"),
    "text for a list": ("trainer.forward_properties", "x", "wrong-type trainer.forward_properties", "a list"),
    "a list for a table": ("loader", [], "wrong-type loader", "a table"),
    "a table for a list": ("transforms", {}, "wrong-type transforms", "a list"),
    "text for a table": ("datasets", "x", "wrong-type datasets", "a table"),
    "a list too short": ("model.limits", [1], "missing-key model.limits.1", ""),
    "an item of a wrong type": ("model.hidden", [1, "2"], "wrong-type model.hidden.1", "an integer"),
    "no member of a union": ("model.hidden", True, "wrong-type model.hidden", "an integer or a list"),
    "a wrong choice": ("model.activation", "selu", "wrong-value model.activation", '"relu" or "gelu"'),
    "a wrong version": ("spec", 2, "unsupported-version spec", ""),
    "a number too small": ("seed", -1, "out-of-range seed", "at least 0"),
    "a number at its bound": (
        "model.optimizer.clip_grad_norm",
        0,
        "out-of-range model.optimizer.clip_grad_norm",
        "a number greater than 0",
    ),
    "a number too large": (
        "model.normalization",
        {"momentum": 1},
        "out-of-range model.normalization.momentum",
        "a number below 1",
    ),
    "an endless bound": ("expect.a", {"max": float("inf")}, "out-of-range expect.a.max", "a finite number"),
    "a missing key": ("trainer.effective_batch_size", MISSING, "missing-key trainer.effective_batch_size", ""),
    "a missing table": ("model", MISSING, "missing-key model", ""),
    "a missing kind": ("model.kind", MISSING, "missing-key model.kind", ""),
    "a kind that is no text": ("model.kind", 5, "wrong-type model.kind", "a string"),
    "an unknown kind": ("model.kind", "nett", "unknown-kind model.kind", "'net'"),
    "an unknown bare kind": ("trainer.loss_fn", "gapp", "unknown-kind trainer.loss_fn", "'gap'"),
    "a kind of another role": ("model.kind", "goal", "unknown-kind model.kind", "[trainer]"),
    "a component that is no table": ("model", 5, "wrong-type model", "a table with a kind"),
    "an option that a loss does not have": (
        "trainer.loss_fn",
        {"kind": "gap", "weight": 1},
        "unknown-key trainer.loss_fn.weight",
        "kind, delta",
    ),
    "a rule of a component": ("model", {"kind": "net", "dropout": 0.5, "bias": False}, "wrong-value model", ""),
    "a wrong name": ("name", "My Run", "wrong-value name", "lower-case letters"),
    "a wrong device": ("device", "gpu", "wrong-value device", "auto, cpu, mps, cuda or cuda:N"),
    "a bound without a number": ("expect.a", {}, "wrong-value expect.a", ""),
    "a tolerance of nothing": ("expect.a", {"max": 1, "tolerance": 1}, "wrong-value expect.a", ""),
    "bounds that nothing meets": ("expect.a", {"min": 2, "max": 1}, "wrong-value expect.a", ""),
    "a documented name that is another": (
        "trainer.callbacks",
        [{"kind": "average", "every_n_epochs": 1, "name": "NoteCallback"}],
        "wrong-value trainer.callbacks.0.name",
        '"AverageCallback"',
    ),
}


def _change(tables: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = parse_path(path)
    holder = tables
    for part in parents:
        holder = holder.setdefault(part, {})
    if value is MISSING:
        del holder[last]
    else:
        holder[last] = value
    return tables


@pytest.mark.parametrize(("path", "value", "code", "named"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_problem(refused: Callable, tables: dict, path: str, value: Any, code: str, named: str):
    found = refused(_change(tables, path, value))
    assert found.codes == [code]
    assert named in found.text


def test_all_problems_are_shown_in_one_pass_in_the_order_of_their_paths(load: Callable, tables: dict):
    tables["sed"] = 1
    tables["model"]["hidden"] = "x"
    tables["trainer"]["callbacks"] = [
        {"kind": "note", "every_n_epochs": "1"},
        {"kind": "nott", "every_n_epochs": 1},
        *({"kind": "note"} for _ in range(9)),
    ]
    with pytest.raises(InvalidSpecError) as caught:
        load(tables)
    paths = [".".join(map(str, problem.path)) for problem in caught.value.problems]
    assert paths == [
        "model.hidden",
        "sed",
        "trainer.callbacks.0.every_n_epochs",
        "trainer.callbacks.1.kind",
        *(f"trainer.callbacks.{index}" for index in range(2, 11)),
    ]
    assert caught.value.message.endswith("13 problems in the spec")


@pytest.mark.parametrize("number", [3, float("inf"), float("-inf")])
def test_whole_and_infinite_numbers_are_numbers(load: Callable, tables: dict, number: float):
    tables["model"]["dropout"] = number
    assert load(tables).spec.model.dropout == number


def test_control_characters_never_reach_the_terminal(refused: Callable, tables: dict):
    tables["device"] = "\x1b[31m\u202e"
    assert r"\x1b[31m\u202e" in refused(tables).text


def test_a_python_value_that_toml_cannot_hold_is_refused(refused: Callable, tables: dict):
    tables["model"]["hidden"] = {1, 2}
    found = refused(tables)
    assert found.codes == ["unsupported-value model.hidden"]
    assert "{1, 2}" in found.text


def test_a_dict_that_holds_itself_is_refused(refused: Callable, tables: dict):
    tables["model"]["hidden"] = tables
    assert refused(tables).codes == ["too-large"]


@pytest.mark.parametrize("number", [2**64, 10**5000], ids=["65 bits", "5000 digits"])
def test_an_integer_beyond_64_bits_is_refused(refused: Callable, tables: dict, number: int):
    tables["seed"] = number
    assert refused(tables).codes == ["unsupported-value seed"]


def test_a_refused_dict_is_left_as_it_was(refused: Callable, tables: dict):
    before = copy.deepcopy(tables)
    refused(tables, ["sed=1"])
    assert tables == before
