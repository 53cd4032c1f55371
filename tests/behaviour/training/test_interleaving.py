"""One pool of workers for training and evaluation: loaded batches, their order, and their consumers."""

import pytest

START_METHODS = [
    "fork",
    pytest.param("forkserver", marks=pytest.mark.slow),
    pytest.param("spawn", marks=pytest.mark.long),
]
TRACED = {
    "datasets": {
        "train": {"kind": "lab.tracing.Traced"},
        "test": {"kind": "lab.tracing.Traced", "split": "test"},
    },
    "trainer.max_epochs": 4,
    "trainer.effective_batch_size": 8,
    "trainer.max_batch_size": 4,
}
NOTES = {"kind": "lab.tracing.NotesTraining", "every_n_epochs": 1}
PASSES = {"kind": "lab.tracing.NotesPasses", "dataset_key": "test"}
SCHEDULE = [
    {**PASSES, "id": "whole", "every_n_epochs": 1},
    {**PASSES, "id": "often", "every_n_updates": 2, "batch_size": 3, "max_size": 7},
    {"kind": "lab.tracing.ReadsOnce", "id": "part", "dataset_key": "test", "every_n_updates": 3},
    {**PASSES, "id": "train", "every_n_samples": 20, "dataset_key": "train", "properties": ["x", "number"]},
    {"kind": "lab.tracing.Parent", "id": "parent", "every_n_epochs": 2, "dataset_keys": ["test", "train"]},
]


@pytest.fixture
def trace(finish, lab):
    """Run with callbacks; return the batches that arrived, and the split, index and process of each loaded sample."""

    def traced(callbacks, **changes):
        files = [lab.parent / name for name in ("arrived.txt", "loaded.txt")]
        for file in files:
            file.unlink(missing_ok=True)
        finish({**TRACED, "trainer.callbacks": callbacks, **changes})
        arrived, loaded = (file.read_text().splitlines() for file in files)
        return arrived, [tuple(line.split()) for line in loaded]

    return traced


def of(arrived, consumer):
    return [line for line in arrived if line.partition(" ")[0] == consumer]


def test_every_consumer_sees_what_it_would_see_alone(trace):
    together, _ = trace([NOTES, *SCHEDULE])
    ids = [callback["id"] for callback in SCHEDULE[:3]]
    for callback, consumer in zip(SCHEDULE, ids, strict=False):
        alone, _ = trace([callback])
        assert of(together, consumer) == of(alone, consumer), consumer


def test_training_sees_the_same_batches_with_and_without_evaluation(trace):
    quiet, _ = trace([NOTES])
    watched, _ = trace([NOTES, *SCHEDULE[:3]])
    assert len(quiet) == 4 * 6
    assert of(watched, "train") == quiet


def test_children_of_a_callback_get_batches_of_their_own(trace):
    arrived, _ = trace([SCHEDULE[0], SCHEDULE[4]])
    for child, samples in (("parent/test", 10), ("parent/train", 24)):
        passes = [line for line in of(arrived, child) if " epoch " in line]
        sizes = [4] * (samples // 4) + ([samples % 4] if samples % 4 else [])
        assert passes == [f"{child} epoch {point} {sizes}" for point in ("E2_U6_S48", "E4_U12_S96")]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_two_workers_bring_the_same_bits_and_are_never_started_again(trace, start_method):
    alone, loaded_alone = trace([NOTES, *SCHEDULE])
    arrived, loaded = trace([NOTES, *SCHEDULE], loader={"num_workers": 2, "start_method": start_method})
    assert arrived == alone
    in_this_process = {process for *_, process in loaded_alone}
    workers = {process for *_, process in loaded} - in_this_process  # a first look is taken in the run's own process
    assert len(in_this_process) == 1
    assert len(workers) == 2


def test_evaluation_is_loaded_before_its_interval_fires_and_training_while_it_runs(finish, lab):
    watch = {"kind": "lab.tracing.LooksAhead", "dataset_key": "test", "every_n_updates": 6, "before": 5}
    outcome = finish({**TRACED, "loader.num_workers": 1, "trainer.callbacks": [watch]})
    assert outcome.metrics["evaluation_requested_early"] == 1.0
    assert outcome.metrics["training_requested_early"] == 1.0


@pytest.mark.parametrize(("factor", "ahead"), [(None, 4), (1, 1), (3, 3)])
def test_a_worker_loads_prefetch_factor_batches_ahead(finish, lab, factor, ahead):
    watch = {"kind": "lab.tracing.CountsAhead", "every_n_updates": 7}
    changes = {"trainer.max_batch_size": None, "trainer.max_epochs": None, "trainer.max_updates": 12}
    prefetch = {"trainer.dataloader_prefetch_factor": factor, "loader.num_workers": 1}
    outcome = finish({**TRACED, **changes, **prefetch, "trainer.callbacks": [watch]})
    assert outcome.metrics["loaded"] == (7 + ahead) * TRACED["trainer.effective_batch_size"]
