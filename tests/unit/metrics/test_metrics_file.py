import json
import math
import resource
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.errors import StorageError
from noether.metrics.metrics_file import AppendOnlyFile, MetricRecord, MetricsFile, update_of

FIRST = MetricRecord(50, 1, 3200, 1_700_000_000.0, {"loss/online/total": 0.31})
SECOND = MetricRecord(100, 2, 6400, 1_700_000_001.0, {"loss/online/total": 0.25, "optim/lr": 1e-3})

KEYS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


@pytest.fixture
def file(tmp_path):
    opened = MetricsFile(tmp_path / "metrics.jsonl")
    yield opened
    opened.close()


def test_a_line_is_the_documented_json(file):
    file.append(FIRST)
    assert json.loads(file.path.read_text()) == {
        "update": 50,
        "epoch": 1,
        "sample": 3200,
        "time": 1_700_000_000.0,
        "metrics": {"loss/online/total": 0.31},
    }


def test_what_was_written_is_read_back_in_order(file):
    file.append(FIRST)
    file.append(SECOND)
    assert list(file.read()) == [FIRST, SECOND]


def test_non_finite_numbers_are_strings_and_come_back_as_numbers(file):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf}
    file.append(MetricRecord(1, 0, 8, 0.0, values))
    assert json.loads(file.path.read_text())["metrics"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    (read,) = file.read()
    assert math.isnan(read.metrics["a"])
    assert (read.metrics["b"], read.metrics["c"]) == (math.inf, -math.inf)


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1), st.floats(allow_nan=False)),
    st.integers(0, 2**40),
)
def test_every_record_survives_its_line(metrics, update):
    record = MetricRecord(update, 0, update, 12.5, metrics)
    line = record.encode()
    assert line.count(b"\n") == 1
    assert MetricRecord.decode(line) == record
    assert update_of(line) == update


def test_equal_metrics_make_equally_long_lines_at_any_time():
    lengths = {len(MetricRecord(1, 0, 8, time, {"a": 0.5}).encode()) for time in (1.7e9, 1.7e9 + 0.25, 1.7e9 + 0.3)}
    assert len(lengths) == 1


def test_a_torn_last_line_is_not_read(file):
    file.append(FIRST)
    with file.path.open("ab") as raw:
        raw.write(SECOND.encode()[:30])
    assert list(file.read()) == [FIRST]


def test_a_torn_last_line_is_cut_off_by_the_next_append(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(FIRST.encode() + SECOND.encode()[:30])
    file = MetricsFile(path)
    assert file.offset == len(FIRST.encode())
    file.append(SECOND)
    assert list(file.read()) == [FIRST, SECOND]
    file.close()


def test_a_damaged_line_in_the_middle_is_named(file):
    file.append(FIRST)
    with file.path.open("ab") as raw:
        raw.write(b"no json\n")
    with pytest.raises(StorageError) as caught:
        list(file.read())
    assert str(caught.value).startswith(f"{file.path}:2: ")


def test_truncating_forgets_the_lines_after_the_offset(file):
    file.append(FIRST)
    offset = file.offset
    file.append(SECOND)
    file.truncate(offset)
    assert list(file.read()) == [FIRST]
    file.append(SECOND)
    assert list(file.read()) == [FIRST, SECOND]


def test_truncating_to_more_than_there_is_is_an_error(file):
    file.append(FIRST)
    with pytest.raises(StorageError) as caught:
        file.truncate(file.offset + 1)
    assert str(file.offset) in str(caught.value)
    assert str(file.offset + 1) in str(caught.value)


def test_a_file_opened_again_goes_on_at_its_end(tmp_path):
    for record in (FIRST, SECOND):
        file = MetricsFile(tmp_path / "metrics.jsonl")
        file.append(record)
        file.sync()
        file.close()
    assert list(file.read()) == [FIRST, SECOND]


def test_a_file_that_does_not_exist_holds_nothing(file):
    assert list(file.read()) == []
    assert file.offset == 0


@pytest.fixture
def full_disk():
    """A limit on the size of files that this process writes; the closest to a full disk without root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_names_the_file_and_leaves_the_lines_before_valid(file, full_disk):
    file.append(FIRST)
    full_disk(file.offset + 40)  # the next line fits in part
    with pytest.raises(StorageError) as caught:
        file.append(SECOND)
    assert str(file.path) in str(caught.value)
    assert "free some space" in str(caught.value)
    assert file.path.read_bytes() == FIRST.encode()
    full_disk(1 << 20)
    file.append(SECOND)  # and it goes on once there is space again
    assert list(file.read()) == [FIRST, SECOND]


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = (
        "import sys, itertools; from pathlib import Path\n"
        "from noether.metrics.metrics_file import MetricRecord\n"
        "from noether.metrics.metrics_file import MetricsFile\n"
        "file = MetricsFile(Path(sys.argv[1]))\n"
        "for u in itertools.count():\n"
        "    file.append(MetricRecord(u, 0, u, 0.0, {'a': u / 3}))\n"
        "    print(flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    for _ in range(50):
        writer.stdout.readline()
    writer.kill()
    writer.communicate()
    updates = [record.update for record in MetricsFile(path).read()]
    assert updates == list(range(len(updates)))
    assert len(updates) >= 50


def test_a_torn_line_that_could_not_be_cut_off_is_cut_off_by_the_next_append(tmp_path):
    lines = AppendOnlyFile(tmp_path / "nonscalars.jsonl")
    lines.write(b"1\n")
    lines._file = TornFile(lines._file)
    with pytest.raises(StorageError):
        lines.write(b"22222222\n")
    lines.write(b"3\n")
    assert lines.path.read_bytes() == b"1\n3\n"
    lines.close()


class TornFile:
    """Takes half of a line and then refuses everything but being closed."""

    def __init__(self, file):
        self.file = file

    def write(self, line):
        if not self.file.write(line[:4]) or len(line) < 9:
            raise OSError(28, "No space left on device")
        return 4

    def truncate(self, offset):
        raise OSError(5, "Input/output error")

    def close(self):
        self.file.close()


@pytest.mark.parametrize("time", ['"yesterday"', "NaN", "1e999", "1700e123", "-1", "null"])
def test_a_line_whose_time_no_tracker_can_take_is_damaged(time):
    line = f'{{"update": 1, "epoch": 0, "sample": 8, "time": {time}, "metrics": {{"loss": 0.5}}}}\n'
    with pytest.raises(ValueError, match="not a line"):
        MetricRecord.decode(line.encode())
