"""Every kind of wrong input with the message that it gets."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from noether.spec.errors.problem import InvalidSpecError
from noether.spec.read.overrides import parse_path

MISSING = object()

WRONG: dict[str, tuple[str, Any, str]] = {
    "an unknown key": (
        "sed",
        1,
        "sed: unknown key \"sed\". Did you mean 'seed'?\n1 problem",
    ),
    "an unknown key of a component": ("model.hiden", 1, "model.hiden: unknown key \"hiden\". Did you mean 'hidden'?"),
    "an unknown key of an optimizer": (
        "model.optimizer.lrr",
        1,
        "model.optimizer.lrr: unknown key \"lrr\". Did you mean 'lr'?",
    ),
    "an unknown key of a nested table": (
        "model.normalization",
        {"momentun": 0.1},
        "model.normalization.momentun: unknown key \"momentun\". Did you mean 'momentum'?\n"
        "  help: allowed here: momentum",
    ),
    "an unknown key of a bound": ("expect.a", {"maxx": 1}, "allowed here: min, max, equals, tolerance"),
    "text for a boolean": (
        "deterministic",
        "yes",
        'deterministic: found the string "yes", expected true or false',
    ),
    "a number for a boolean": (
        "deterministic",
        1,
        "deterministic: found the integer 1, expected true or false",
    ),
    "a fraction for an integer": ("seed", 1.5, "seed: found the number 1.5, expected an integer"),
    "a whole fraction for an integer": (
        "trainer.effective_batch_size",
        "4",
        'found the string "4", expected an integer',
    ),
    "a boolean for an integer": ("seed", True, "seed: found true, expected an integer"),
    "text for a number": (
        "model.optimizer.lr",
        "1e-3",
        'model.optimizer.lr: found the string "1e-3", expected a number',
    ),
    "a boolean for a number": ("model.dropout", False, "model.dropout: found false, expected a number"),
    "a number for text": ("output", 1, "output: found the integer 1, expected a string"),
    "text for a list": ("trainer.forward_properties", "x", 'found the string "x", expected a list'),
    "a list for a table": ("loader", [], "loader: found a list, expected a table"),
    "a table for a list": ("transforms", {}, "transforms: found a table, expected a list"),
    "text for a table": ("datasets", "x", 'datasets: found the string "x", expected a table'),
    "a list too short": ("model.limits", [1], "model.limits.1: item 1 is missing"),
    "an item of a wrong type": (
        "model.hidden",
        [1, "2"],
        'model.hidden.1: found the string "2", expected an integer',
    ),
    "no member of a union": ("model.hidden", True, "model.hidden: found true, expected an integer or a list"),
    "a wrong choice": (
        "model.activation",
        "selu",
        'model.activation: found the string "selu", expected "relu" or "gelu"',
    ),
    "a wrong version": ("spec", 2, "spec: spec = 2 is a newer format than this Noether knows"),
    "a number too small": ("seed", -1, "seed: found the integer -1, expected at least 0"),
    "a number at its bound": (
        "model.optimizer.clip_grad_norm",
        0,
        "found the integer 0, expected a number greater than 0",
    ),
    "a number too large": (
        "model.normalization",
        {"momentum": 1},
        "found the integer 1, expected a number below 1",
    ),
    "an endless bound": (
        "expect.a",
        {"max": float("inf")},
        "expect.a.max: found the number inf, expected a finite number",
    ),
    "a missing key": (
        "trainer.effective_batch_size",
        MISSING,
        'trainer.effective_batch_size: "effective_batch_size" is missing',
    ),
    "a missing table": ("model", MISSING, 'model: "model" is missing'),
    "a missing kind": (
        "model.kind",
        MISSING,
        'model.kind: "kind" is missing, and it has no default\n  help: noether plugins list',
    ),
    "a kind that is no text": ("model.kind", 5, "model.kind: found the integer 5, expected a string"),
    "an unknown kind": ("model.kind", "nett", "model.kind: unknown model kind 'nett'. Did you mean 'net'?"),
    "an unknown bare kind": (
        "trainer.loss_fn",
        "gapp",
        "trainer.loss_fn: unknown loss kind 'gapp'. Did you mean 'gap'?",
    ),
    "a kind of another role": ("model.kind", "goal", "'goal' is a trainer; it belongs in [trainer]"),
    "a component that is no table": ("model", 5, "model: found the integer 5, expected a table with a kind"),
    "an option that a loss does not have": (
        "trainer.loss_fn",
        {"kind": "gap", "weight": 1},
        'trainer.loss_fn.weight: unknown key "weight"\n  help: allowed here: kind, delta',
    ),
    "a rule of a component": (
        "model",
        {"kind": "net", "dropout": 0.5, "bias": False},
        "model: dropout needs bias = true",
    ),
    "a wrong name": ("name", "My Run", 'name: found the string "My Run", expected lower-case letters'),
    "a wrong device": (
        "device",
        "gpu",
        'device: found the string "gpu", expected auto, cpu, mps, cuda or cuda:N',
    ),
    "a bound without a number": ("expect.a", {}, "expect.a: expected at least one of min, max, equals"),
    "a tolerance of nothing": (
        "expect.a",
        {"max": 1, "tolerance": 1},
        "expect.a: tolerance goes with equals",
    ),
    "bounds that nothing meets": (
        "expect.a",
        {"min": 2, "max": 1},
        "expect.a: min (2.0) is greater than max (1.0)",
    ),
    "a documented name that is another": (
        "trainer.callbacks",
        [{"kind": "average", "every_n_epochs": 1, "name": "NoteCallback"}],
        'trainer.callbacks.0.name: found the string "NoteCallback", expected "AverageCallback"',
    ),
}


def _change(tables: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = parse_path(path, path)
    holder = tables
    for part in parents:
        holder = holder.setdefault(part, {})
    if value is MISSING:
        del holder[last]
    else:
        holder[last] = value
    return tables


@pytest.mark.parametrize(("path", "value", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_plain_problem(refusal: Callable, tables: dict, path: str, value: Any, message: str):
    found = refusal(_change(tables, path, value))
    assert message in found
    assert found.endswith("1 problem in the spec"), found


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


def test_control_characters_never_reach_the_terminal(refusal: Callable, tables: dict):
    tables["device"] = "\x1b[31m\u202e"
    assert r"\x1b[31m\u202e" in refusal(tables)


def test_a_python_value_that_toml_cannot_hold_is_refused(refusal: Callable, tables: dict):
    tables["model"]["hidden"] = {1, 2}
    assert re.search(r"hidden: TOML has no counterpart for \{1, 2\} \(set\)", refusal(tables))


def test_a_dict_that_holds_itself_is_refused(refusal: Callable, tables: dict):
    tables["model"]["hidden"] = tables
    assert "nested more than 32 deep" in refusal(tables)


def test_an_integer_beyond_64_bits_is_refused(refusal: Callable, tables: dict):
    tables["seed"] = 2**64
    assert "seed: an integer beyond 64 bits" in refusal(tables)


def test_a_refused_dict_is_left_as_it_was(refusal: Callable, tables: dict):
    before = copy.deepcopy(tables)
    refusal(tables, ["sed=1"])
    assert tables == before
