import copy
from pathlib import Path

import pytest

from noether.kernel.registry import Entry, Registry, use_registry
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.read.layers import Layer, node_of, value_of
from noether.spec.read.overrides import Unset, apply_override, parse_override

DOCUMENT = {
    "seed": 1,
    "trainer": {
        "loss_fn": "l1",
        "callbacks": [
            {"kind": "ema", "every_n_epochs": 1},
            {"kind": "ema", "every_n_epochs": 2},
            {"id": "val", "kind": "offline-loss", "eval_callbacks": [{"kind": "offline-loss"}]},
            {"kind": "my.code.GradNormCallback"},
            {"kind": "LearningRateCallback"},
        ],
    },
    "trackers": [{"kind": "mlflow"}],
    "model": {
        "kind": "mlp",
        "hidden": [1, 2],
        "optimizer": {"kind": "AdamW", "lr": 0.1, "betas": [0.9, 0.99]},
    },
}


@pytest.fixture
def document(request) -> dict:
    names = {"ema": "EmaCallback", "offline-loss": "OfflineLossCallback", "lr": "LearningRateCallback"}
    entries = [Entry("callback", name, f"somewhere:{target}", "noether-train", "1") for name, target in names.items()]
    entries.append(Entry("tracker", "mlflow", "somewhere:MlflowTracker", "noether-train", "1"))
    with use_registry(Registry(entries)):
        yield copy.deepcopy(DOCUMENT)


def _apply(document: dict, text: str) -> dict:
    root = node_of(document, Layer("a.toml", Path()))
    apply_override(root, parse_override(text))
    return value_of(root)


def test_a_value_is_replaced(document: dict):
    assert _apply(document, "seed=2")["seed"] == 2


def test_missing_tables_are_made(document: dict):
    assert _apply(document, 'expect."a/b".max=1')["expect"] == {"a/b": {"max": 1}}


@pytest.mark.parametrize(("item", "index"), [("ema", 0), ("ema-2", 1), ("val", 2), ("grad-norm", 3), ("lr", 4)])
def test_an_item_is_found_by_its_id_or_its_default_id(document: dict, item: str, index: int):
    document = _apply(document, f"trainer.callbacks[{item}].batch_size=7")
    assert [callback.get("batch_size") == 7 for callback in document["trainer"]["callbacks"]].index(True) == index


def test_a_nested_item_is_found_by_its_id(document: dict):
    document = _apply(document, "trainer.callbacks[val].eval_callbacks[offline-loss].dataset_key=test")
    assert document["trainer"]["callbacks"][2]["eval_callbacks"] == [{"kind": "offline-loss", "dataset_key": "test"}]


def test_other_arrays_of_tables_are_addressed_by_kind_too(document: dict):
    assert _apply(document, "trackers[mlflow].required=true")["trackers"][0]["required"] is True


def test_an_item_is_found_by_its_index(document: dict):
    assert _apply(document, "model.hidden.1=9")["model"]["hidden"] == [1, 9]


def test_a_list_is_replaced(document: dict):
    assert _apply(document, "model.hidden=[9]")["model"]["hidden"] == [9]


def test_a_table_of_another_kind_replaces_what_is_there(document: dict):
    document = _apply(document, "model.optimizer={kind='SGD', lr=1.0}")
    assert document["model"]["optimizer"] == {"kind": "SGD", "lr": 1.0}


@pytest.mark.parametrize("text", ["model={optimizer={lr=1.0}}", "model={kind='mlp', optimizer={lr=1.0}}"])
def test_a_table_of_the_same_kind_or_none_merges_into_what_is_there(document: dict, text: str):
    document = _apply(document, text)
    assert document["model"] == {
        "kind": "mlp",
        "hidden": [1, 2],
        "optimizer": {"kind": "AdamW", "lr": 1.0, "betas": [0.9, 0.99]},
    }


@pytest.mark.parametrize(
    ("text", "path", "named"),
    [
        ("seed.x=1", ("seed",), "the integer 1"),
        ("trainer.loss_fn.delta=1", ("trainer", "loss_fn"), 'trainer.loss_fn={kind="l1", …}'),
        ("trainer.callbacks.5.id=x", ("trainer", "callbacks"), "5 items"),
        ("trainer.callbacks[vall].id=x", ("trainer", "callbacks"), "Did you mean 'val'?"),
        ("trainer.callbacks[vall].id=x", ("trainer", "callbacks"), "it has ema, ema-2, val, grad-norm, lr"),
        ("trainer.callbacks.ema.id=x", ("trainer", "callbacks"), "trainer.callbacks[ema] or trainer.callbacks.0"),
        ("trainer[x]=1", ("trainer",), "a table"),
        ("trainer.nothing[x].y=1", ("trainer", "nothing"), "no items"),
        ("model.hidden.x=1", ("model", "hidden"), '"x"'),
    ],
)
def test_a_path_that_does_not_exist_is_refused_with_existing_ones(document: dict, text: str, path: tuple, named: str):
    problem = _problem(document, text)
    assert problem.path == path
    assert named in f"{problem.message} {problem.hint}"


def _problem(document: dict, override: str) -> Problem:
    with pytest.raises(InvalidSpecError) as caught:
        _apply(document, override)
    (problem,) = caught.value.problems
    assert problem.code == "unknown-path"
    return problem


def test_a_value_is_appended(document: dict):
    document = _apply(document, "trainer.callbacks+={kind='lr', id='rate'}")
    assert [item["kind"] for item in document["trainer"]["callbacks"]][-2:] == ["LearningRateCallback", "lr"]
    assert _apply(document, "model.hidden+=3")["model"]["hidden"] == [1, 2, 3]


def test_an_array_that_is_appended_to_is_made(document: dict):
    assert _apply(document, "model.frozen+='encoder.*'")["model"]["frozen"] == ["encoder.*"]


def test_only_a_list_is_appended_to(document: dict):
    assert _problem(document, "seed+=1").path == ("seed",)


@pytest.mark.parametrize(
    ("path", "holder", "left"),
    [
        ("model.optimizer.betas", lambda d: d["model"]["optimizer"], {"kind": "AdamW", "lr": 0.1}),
        ("trackers[mlflow]", lambda d: d["trackers"], []),
        ("model.hidden.0", lambda d: d["model"]["hidden"], [2]),
        ("seed", lambda d: d.get("seed"), None),
    ],
)
def test_a_value_is_removed(document: dict, path: str, holder, left):
    assert holder(_apply(document, Unset(path))) == left


@pytest.mark.parametrize(
    ("path", "named"),
    [("trainer.loss", "'loss_fn'"), ("loader.num_workers", "no loader"), ("trainer.callbacks[vall]", "'val'")],
)
def test_a_missing_key_cannot_be_removed(document: dict, path: str, named: str):
    assert named in _problem(document, Unset(path)).message
