"""The journal of a sweep: written at once, read back as it was, and never guessed at."""

import json
from pathlib import Path

import pytest

from noether.errors import StorageError, UsageError
from noether.runs.sweep.journal import BROKE, FAILED, FINISHED, PRUNED, WAITING, Journal, Record
from noether.spec.sweep import Objective


@pytest.fixture
def record() -> Record:
    found = Record("s", "spec.toml", "grid", Objective("loss/test/total", "lower", "final"), {"seed": 0})
    for state, final in ((FAILED, None), (FINISHED, 0.5), (PRUNED, 0.1), (WAITING, None), (BROKE, 0.2)):
        trial = found.add({"lr": float(len(found.trials))})
        trial.state, trial.final = state, final
    return found


def test_a_journal_is_read_back_as_it_was_written(tmp_path: Path, record: Record) -> None:
    journal = Journal(tmp_path, "s")
    with journal.locked():
        journal.write(record)
    assert journal.read() == record


def test_trials_with_a_value_come_first_and_failed_ones_last(record: Record) -> None:
    assert [trial.number for trial in record.ranked()] == [5, 2, 3, 4, 1]


def test_a_pruned_trial_is_never_the_best(record: Record) -> None:
    assert record.winner() is record.trials[4]


def test_a_trial_that_the_table_has_no_more_is_never_the_best(record: Record) -> None:
    record.trials[4].wanted = False
    assert record.winner() is record.trials[1]


@pytest.mark.parametrize(
    "change", [{"values": [1]}, {"number": "../x"}, {"final": "low"}, {"state": "odd"}, {"more": 1}]
)
def test_a_journal_with_a_trial_of_another_shape_is_damaged(tmp_path: Path, record: Record, change) -> None:
    journal = Journal(tmp_path, "s")
    with journal.locked():
        journal.write(record)
    body = json.loads((journal.folder / "sweep.json").read_text())
    body["trials"][0] |= change
    (journal.folder / "sweep.json").write_text(json.dumps(body))
    with pytest.raises(StorageError, match="damaged"):
        journal.read()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "trials": 3}'])
def test_a_damaged_journal_is_one_clear_error(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path, "s")
    journal.folder.mkdir()
    (journal.folder / "sweep.json").write_text(text)
    with pytest.raises(StorageError, match="damaged"):
        journal.read()


def test_a_sweep_that_does_not_exist_is_an_error_that_names_those_that_do(tmp_path: Path, record: Record) -> None:
    other = Journal(tmp_path, "other")
    with other.locked():
        other.write(record)
    with pytest.raises(UsageError) as error:
        Journal(tmp_path, "s").read()
    assert "other" in str(error.value.hint)


def test_two_sweeps_of_one_name_are_never_conducted_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path, "s").locked(), pytest.raises(UsageError, match="conducted"), Journal(tmp_path, "s").locked():
        pass


def test_the_folder_of_a_sweep_is_no_run(tmp_path: Path, record: Record) -> None:
    from noether.runs.results.summary import summaries_in

    journal = Journal(tmp_path, "s")
    with journal.locked():
        journal.write(record)
    assert summaries_in(tmp_path) == []
