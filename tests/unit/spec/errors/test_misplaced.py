"""Suggestions for a key or table in the wrong place."""

from collections.abc import Callable
from typing import Any

import pytest

HOMES: dict[str, tuple[str, Any, str]] = {
    "an optimizer at the top": ("optimizer", {"kind": "SGD"}, "it belongs in [model.optimizer]"),
    "callbacks at the top": ("callbacks", [{"kind": "note"}], "it belongs in [[trainer.callbacks]]"),
    "a schedule at the top": ("schedule", {"kind": "x"}, "it belongs in [model.optimizer.schedule]"),
    "a bare schedule at the top": ("schedule", "cosine", "it belongs in [model.optimizer]"),
    "a scheduler": ("scheduler", {"kind": "x"}, "it belongs in schedule of [model.optimizer]"),
    "a loss at the top": ("loss_fn", "gap", "it belongs in [trainer]"),
    "a loss by its role": ("loss", {"kind": "gap"}, "it belongs in loss_fn of [trainer]"),
    "data": ("data", {"kind": "points"}, "it belongs in [datasets.train]"),
    "a limit at the top": ("max_epochs", 3, "it belongs in [trainer]"),
    "a learning rate of the trainer": ("trainer.lr", 0.1, "it belongs in [model.optimizer]"),
    "bounds of the trainer": ("trainer.expect", {"loss": {"max": 1}}, "it belongs in [expect]"),
    "a seed of the trainer": ("trainer.seed", 1, "it belongs at the top, before the first table"),
    "workers of the trainer": ("trainer.num_workers", 1, "it belongs in [loader]"),
    "an interval of the trainer": ("trainer.every_n_epochs", 1, "it belongs in [[trainer.callbacks]]"),
    "what others call epochs": ("epochs", 3, "it belongs in [trainer], as max_epochs"),
    "a key of the model at the top": ("dropout", 0.1, "it belongs in [model]"),
}


@pytest.mark.parametrize(("path", "value", "home"), HOMES.values(), ids=HOMES)
def test_a_misplaced_key_is_reported_with_its_place(refused: Callable, tables: dict, path: str, value: Any, home: str):
    *above, key = path.split(".")
    table = tables
    for part in above:
        table = table[part]
    table[key] = value
    found = refused(tables)
    assert (found.codes, found.problems[0].hint) == ([f"unknown-key {path}"], home)


SINGULAR = {
    "dataset": ("datasets", "[datasets.train]"),
    "tracker": ("trackers", "[[trackers]]"),
    "plugin": ("plugins", "use of [plugins], or -p NAME"),
}


@pytest.mark.parametrize("key", SINGULAR)
def test_a_key_that_is_almost_one_of_here_is_suggested_beside_its_place(refused: Callable, tables: dict, key: str):
    plural, home = SINGULAR[key]
    found = refused({**tables, key: {"x": 1}})
    assert (found.codes, found.problems[0].hint) == ([f"unknown-key {key}"], f"it belongs in {home}")
    assert f"'{plural}'" in found.text


def test_few_allowed_keys_are_listed_beside_the_place(refused: Callable, tables: dict):
    tables["loader"] = {"batch_size": 3}
    found = refused(tables)
    assert found.codes == ["unknown-key loader.batch_size"]
    assert found.problems[0].hint == (
        "it belongs in [trainer], as effective_batch_size\n"
        "allowed here: num_workers, prefetch_factor, pin_memory, device_resident, start_method, timeout, "
        "limit_batches, overfit_one_batch"
    )


def test_an_unknown_key_is_reported_with_all_allowed_ones(refused: Callable, tables: dict):
    tables["zzzz"] = 1
    assert refused(tables).problems[0].hint.startswith("allowed here: spec, extends, name, seed, device")


def test_a_misplaced_key_is_reported_with_its_place_although_a_kind_is_wrong(refused: Callable, tables: dict):
    tables["trainer"]["kind"] = "no-such"
    tables["callbacks"] = [{"kind": "note"}]
    tables["loss"] = "gap"
    hints = {problem.path: problem.hint for problem in refused(tables).problems if problem.code == "unknown-key"}
    assert hints["callbacks",] == "it belongs in [[trainer.callbacks]]"
    assert hints["loss",] == "it belongs in loss_fn of [trainer]"
