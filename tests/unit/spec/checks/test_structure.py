from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("callback", "code"),
    [
        ({"kind": "note"}, "missing-interval trainer.callbacks.0"),
        ("note", "missing-interval trainer.callbacks.0"),
        ({"kind": "note", "every_n_epochs": 1, "every_n_samples": 8}, "conflicting-keys trainer.callbacks.0"),
        (
            {"kind": "stop", "stop_at": 1, "every_n_epochs": 1, "every_n_updates": 8},
            "conflicting-keys trainer.callbacks.0",
        ),
        (
            {"kind": "average", "every_n_epochs": 1, "eval_callbacks": [{"kind": "note"}]},
            "missing-interval trainer.callbacks.0.eval_callbacks.0",
        ),
        (
            {"kind": "pass", "every_n_epochs": 1, "dataset_key": "tests"},
            "unknown-dataset trainer.callbacks.0.dataset_key",
        ),
        (
            {
                "kind": "best",
                "every_n_epochs": 1,
                "eval_callbacks": [{"kind": "pass", "dataset_key": "valid"}],
            },
            "unknown-dataset trainer.callbacks.0.eval_callbacks.0.dataset_key",
        ),
        ({"kind": "note", "every_n_epochs": 1, "id": "Val"}, "invalid-id trainer.callbacks.0.id"),
        ({"kind": "note", "every_n_epochs": 1, "id": "a/b"}, "invalid-id trainer.callbacks.0.id"),
        ({"kind": "note", "every_n_epochs": 1, "id": "a" * 81}, "invalid-id trainer.callbacks.0.id"),
    ],
)
def test_a_callback_that_does_not_fit_the_spec_is_refused(refused: Callable, tables: dict, callback, code: str):
    tables["trainer"]["callbacks"] = [callback]
    assert refused(tables).codes == [code]


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


def test_an_id_that_is_taken_is_refused(refused: Callable, tables: dict):
    note = {"kind": "note", "every_n_epochs": 1, "id": "val"}
    tables["trainer"]["callbacks"] = [note, dict(note)]
    assert refused(tables).codes == ["duplicate-id trainer.callbacks.1.id"]


def test_training_needs_a_training_set(refused: Callable, tables: dict):
    del tables["datasets"]["train"]
    assert refused(tables).codes == ["missing-training-set datasets"]


def test_a_misspelt_training_set_is_found(refused: Callable, tables: dict):
    tables["datasets"]["trian"] = tables["datasets"].pop("train")
    assert "'trian' to 'train'" in refused(tables).text


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
