import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.errors import StorageError
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.spool import Delivered, MetricsTail


def line(update, value=0.5):
    return MetricRecord(update, 0, update, 0.0, {"loss": value}).encode()


def drain(tail, limit=100):
    updates = []
    while batch := tail.next_batch(limit):
        updates += [record.update for record in batch.records]
        tail.commit(batch)
    return updates


def test_a_file_that_does_not_exist_yet_has_nothing_new(tmp_path):
    assert MetricsTail(tmp_path / "none", Delivered()).next_batch(10) is None


def test_lines_come_once_and_in_order_while_the_file_grows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path, Delivered())
    path.write_bytes(line(1) + line(2))
    assert drain(tail) == [1, 2]
    with path.open("ab") as file:
        file.write(line(3))
    assert drain(tail) == [3]


def test_a_line_that_is_still_being_written_waits(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + line(2)[:20])
    tail = MetricsTail(path, Delivered())
    assert drain(tail) == [1]
    path.write_bytes(line(1) + line(2))
    assert drain(tail) == [2]


def test_a_batch_that_was_not_committed_comes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1))
    tail = MetricsTail(path, Delivered())
    assert tail.next_batch(10) == tail.next_batch(10)
    assert tail.remaining() == 1


def test_a_later_attempt_skips_what_was_delivered_also_after_the_file_was_cut_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(map(line, range(1, 8))))
    first = MetricsTail(path, Delivered())
    assert drain(first) == list(range(1, 8))
    path.write_bytes(b"".join(map(line, range(1, 4))))  # the checkpoint was older than the last delivery
    second = MetricsTail(path, first.delivered)
    assert drain(second) == []
    with path.open("ab") as file:
        file.write(b"".join(map(line, range(4, 10))))
    assert drain(second) == [8, 9]


def test_a_damaged_line_is_counted_and_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + b"\x00\xff no json\n" + line(2))
    tail = MetricsTail(path, Delivered())
    assert tail.next_batch(10).damaged == 1
    assert drain(tail) == [1, 2]


@given(
    updates=st.lists(st.integers(0, 5), max_size=30).map(sorted),
    limit=st.integers(1, 5),
    stop_after=st.integers(0, 10),
)
def test_batches_of_any_size_and_a_restart_anywhere_deliver_each_line_once(
    tmp_path_factory, updates, limit, stop_after
):
    path = tmp_path_factory.mktemp("tail") / "metrics.jsonl"
    path.write_bytes(b"".join(line(update, value=float(index)) for index, update in enumerate(updates)))
    values = []
    tail = MetricsTail(path, Delivered())
    for _ in range(stop_after):
        if batch := tail.next_batch(limit):
            values += [record.metrics["loss"] for record in batch.records]
            tail.commit(batch)
    assert tail.remaining() == len(updates) - len(values)
    later = MetricsTail(path, tail.delivered)
    while batch := later.next_batch(limit):
        values += [record.metrics["loss"] for record in batch.records]
        later.commit(batch)
    assert values == [float(index) for index in range(len(updates))]


def test_a_batch_is_bounded_by_its_values_too(tmp_path):  # H-6
    path = tmp_path / "metrics.jsonl"
    wide = {f"key{number}": 0.0 for number in range(40)}
    path.write_bytes(b"".join(MetricRecord(update, 0, update, 0.0, wide).encode() for update in range(1, 6)))
    assert len(MetricsTail(path, Delivered()).next_batch(100, max_values=100).records) == 3


def test_a_file_that_was_cut_is_read_anew_without_what_was_delivered(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + line(2) + line(3))
    tail = MetricsTail(path, Delivered())
    assert drain(tail) == [1, 2, 3]
    path.write_bytes(line(1) + line(2))
    assert tail.remaining() == 0
    path.write_bytes(line(1) + line(2) + line(3) + line(4))
    assert drain(tail) == [4]


def test_a_line_that_is_too_long_is_refused_before_it_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("noether.metrics.metrics_file._LONGEST", 1 << 10)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1))
    with path.open("ab") as file:
        file.truncate(1 << 40)  # a sparse file: a terabyte without an end of a line
    with pytest.raises(StorageError):
        drain(MetricsTail(path, Delivered()))
