from pathlib import Path

from noether.core.trackers import RunDescription
from noether.metrics.spool import (
    Delivered,
    SpoolState,
    read_description,
    read_spool,
    write_description,
    write_spool,
)


def test_a_state_comes_back_as_it_was_written(tmp_path):
    state = SpoolState(
        Delivered(7, 2),
        Delivered(9, 1),
        {"run_id": "b"},
        "token",
        {"run_id": "a"},
        ((0, "one"), (5, "two")),
        Delivered(6, 1),
        "FINISHED",
    )
    write_spool(tmp_path / "spool/mlflow.json", state, durably=True)
    assert read_spool(tmp_path / "spool/mlflow.json") == state


def test_a_state_of_an_older_version_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"update": 3, "lines": 1, "reference": {"run_id": "a"}}')
    assert read_spool(tmp_path / "a.json") == SpoolState(delivered=Delivered(3, 1), reference={"run_id": "a"})


def test_a_description_comes_back_without_what_is_kept_elsewhere(tmp_path):
    run = RunDescription(
        "r", "n", tmp_path, {"a": "1"}, {"t": "2"}, Path("spec.toml"), attempt=3, facts={"pid": "7"}, token="secret"
    )
    write_description(tmp_path / "a.run.json", run)
    kept = read_description(tmp_path / "a.run.json")
    assert kept == RunDescription(
        "r", "n", tmp_path, {"a": "1"}, {"t": "2"}, Path("spec.toml"), attempt=3, facts={"pid": "7"}
    )


def test_a_damaged_description_is_none(tmp_path):
    path = tmp_path / "a.run.json"
    assert read_description(path) is None
    for text in ("{", "[]", '{"run_id": "r"}', '{"unknown": 1}'):
        path.write_text(text)
        assert read_description(path) is None
