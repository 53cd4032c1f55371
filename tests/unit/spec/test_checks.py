from collections.abc import Callable

import pytest

NEEDS_ONE = "no interval, expected one of every_n_epochs, every_n_updates, every_n_samples"


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ({"kind": "note"}, f"trainer.callbacks.0: {NEEDS_ONE}"),
        ("note", f"trainer.callbacks.0: {NEEDS_ONE}"),
        (
            {"kind": "note", "every_n_epochs": 1, "every_n_samples": 8},
            "trainer.callbacks.0: found every_n_epochs and every_n_samples, expected one interval",
        ),
        (
            {"kind": "stop", "stop_at": 1, "every_n_epochs": 1, "every_n_updates": 8},
            "trainer.callbacks.0: found every_n_epochs and every_n_updates, expected one interval",
        ),
        (
            {"kind": "average", "every_n_epochs": 1, "eval_callbacks": [{"kind": "note"}]},
            f"trainer.callbacks.0.eval_callbacks.0: {NEEDS_ONE}",
        ),
        (
            {"kind": "pass", "every_n_epochs": 1, "dataset_key": "tests"},
            "trainer.callbacks.0.dataset_key: no data set \"tests\". Did you mean 'test'?",
        ),
        (
            {
                "kind": "best",
                "every_n_epochs": 1,
                "eval_callbacks": [{"kind": "pass", "dataset_key": "valid"}],
            },
            'trainer.callbacks.0.eval_callbacks.0.dataset_key: no data set "valid"',
        ),
        (
            {"kind": "note", "every_n_epochs": 1, "id": "Val"},
            'trainer.callbacks.0.id: found the string "Val", expected',
        ),
        (
            {"kind": "note", "every_n_epochs": 1, "id": "a/b"},
            'found the string "a/b", expected lower-case letters',
        ),
    ],
)
def test_a_callback_that_does_not_fit_the_spec_is_refused(refusal: Callable, tables: dict, callback, message: str):
    tables["trainer"]["callbacks"] = [callback]
    found = refusal(tables)
    assert message in found
    assert found.endswith("1 problem in the spec")


@pytest.mark.parametrize(
    "callback",
    [
        {"kind": "stop", "stop_at": 3},
        {"kind": "stop", "stop_at": 3, "every_n_updates": 2},
        {
            "kind": "best",
            "every_n_epochs": 1,
            "eval_callbacks": [{"kind": "pass", "dataset_key": "test"}, "note"],
        },
        {
            "kind": "best",
            "every_n_epochs": 1,
            "eval_callbacks": [{"kind": "note", "every_n_epochs": 1, "every_n_updates": 1}],
        },
    ],
)
def test_a_callback_without_a_schedule_of_its_own_needs_no_interval(load: Callable, tables: dict, callback: dict):
    tables["trainer"]["callbacks"] = [callback]
    assert len(load(tables).spec.trainer.callbacks) == 1


def test_an_id_that_is_taken_is_refused(refusal: Callable, tables: dict):
    note = {"kind": "note", "every_n_epochs": 1, "id": "val"}
    tables["trainer"]["callbacks"] = [note, dict(note)]
    assert 'trainer.callbacks.1.id: the id "val" is taken by trainer.callbacks.0' in refusal(tables)


def test_training_needs_a_training_set(refusal: Callable, tables: dict):
    del tables["datasets"]["train"]
    assert "datasets: there is no [datasets.train], and training needs one\n  help: add it" in refusal(tables)


def test_a_misspelt_training_set_is_found(refusal: Callable, tables: dict):
    tables["datasets"]["trian"] = tables["datasets"].pop("train")
    assert "help: rename 'trian' to 'train'" in refusal(tables)


@pytest.mark.parametrize("limit", ["max_epochs", "max_updates", "max_samples"])
def test_a_run_that_only_evaluates_needs_no_training_set(load: Callable, tables: dict, limit: str):
    del tables["datasets"]["train"]
    tables["trainer"] = {"kind": "goal", "effective_batch_size": 4, limit: 0}
    assert list(load(tables).spec.datasets) == ["test"]


def test_default_ids_are_short_kinds_that_count_on(load: Callable, tables: dict):
    every = {"every_n_epochs": 1}
    tables["trainer"]["callbacks"] = [
        {"kind": "note", **every},
        {"kind": "Note", **every},
        {"kind": "note", "id": "note-3", **every},
        {"kind": "x/grad-norm", **every},
        {"kind": "noether.core.callbacks.periodic.PeriodicCallback", **every},
        {"kind": "NOTE", **every},
        {
            "kind": "AverageCallback",
            "eval_callbacks": [{"kind": "note", **every}, {"kind": "note", **every}],
            **every,
        },
    ]
    callbacks = load(tables).spec.trainer.callbacks
    assert [callback.id for callback in callbacks] == [
        "note",
        "note-2",
        "note-3",
        "grad-norm",
        "periodic",
        "note-4",
        "average",
    ]
    assert [child.id for child in callbacks[-1].eval_callbacks] == ["note", "note-2"]


def test_a_default_id_that_another_callback_was_given_is_a_note(load: Callable, tables: dict):
    every = {"every_n_epochs": 1}
    tables["trainer"]["callbacks"] = [
        {"kind": "note", **every},
        {"kind": "pass", "id": "note", **every},
        {"kind": "note", "id": "other", **every},
        {"kind": "AverageCallback", "eval_callbacks": [{"kind": "note", **every}, {"kind": "note", **every}], **every},
    ]
    loaded = load(tables)
    assert [callback.id for callback in loaded.spec.trainer.callbacks] == ["note-2", "note", "other", "average"]
    assert loaded.notes == ('trainer.callbacks.0: its id is "note-2", because trainer.callbacks.1 has the id "note"',)
