"""The pass over a metrics file gives what reading every line gives, whatever the lines are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.checkpoint.paths import PathProvider
from noether.errors import StorageError
from noether.metrics.metrics_file import MetricRecord
from noether.runs.results import scan
from noether.runs.results.scan import Scan, is_evaluation, scan_metrics

KEYS = (
    "loss/test/total", "rmse/test/Höhe", "a/b\"c", "metric", "optim/lr", "loss/online/total", "profiling/update_time",
    "time", "update", "epoch", "metrics", "NaN", "data/ß", "optim/l", "r2/test/x/best", "model/a+b(",
)  # fmt: skip

metrics = st.dictionaries(st.sampled_from(KEYS), st.floats(), max_size=8)
records = st.lists(metrics, max_size=12)
damage = st.sampled_from(
    [b"", b"garbage\n", b'{"update": 3, "epoch"\n', b'{"update": "x", "metrics": {}}\n', b'""" "\n', b"\n"]
)


def scanned(folder: Path, content: bytes) -> Scan:
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "metrics.jsonl").write_bytes(content)
    return scan_metrics(PathProvider(folder, "run"))


@given(records, st.lists(damage, min_size=12, max_size=12), st.sampled_from([40, 300, 1 << 20]))
def test_a_scan_finds_what_reading_every_line_finds(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, float]], damages: list[bytes], chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("scan")
    content, last, values = b"", dict[str, float](), dict[str, list[tuple[float, int]]]()
    for update, found in enumerate(lines):
        content += damages[update] + MetricRecord(update, update // 2, update * 8, 1.5, found).encode()
        last |= found
        for key in filter(is_evaluation, found):
            values.setdefault(key, []).append((found[key], update))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_CHUNK", chunk)
        result = scanned(folder, content + b'{"update": 99, "epo')
    assert {key: repr(value) for key, value in result.metrics.items()} == {
        key: repr(value) for key, value in last.items()
    }
    assert result.series.keys() == values.keys()
    for key, points in values.items():
        series, numbers = result.series[key], [point for point in points if not math.isnan(point[0])]
        assert (repr(series.final), series.final_update) == (repr(points[-1][0]), points[-1][1])
        lowest = min(numbers, default=None)
        assert (series.lowest and series.lowest[:2]) == lowest
        highest = max(numbers, key=lambda point: (point[0], -point[1]), default=None)
        assert (series.highest and series.highest[:2]) == highest
    if lines:
        assert (result.update, result.epoch, result.sample) == (update, update // 2, update * 8)


def test_training_losses_machinery_and_records_of_bests_are_no_evaluations() -> None:
    evaluations = ("loss/test/total", "ema=0.9/rmse/test/x", "best=loss.test.total/accuracy/train/y", "mine")
    others = ("loss/online/total", "optim/lr", "profiling/x", "data/train/samples", "loss/test/total/best",
              "loss/test/total/best/tolerance=2", "accuracy/test/y/at_best/loss/test/total")  # fmt: skip
    assert all(map(is_evaluation, evaluations))
    assert not any(map(is_evaluation, others))


def test_few_of_many_lines_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machinery = {f"profiling/{name}": 0.5 for name in ("data_time", "forward_time", "update_time")}
    evaluation = {"loss/test/total": 0.25}
    lines = [MetricRecord(u, 0, u, 1.0, machinery | (evaluation if u % 100 == 0 else {})) for u in range(5000)]
    parsed, loads = [], scan.json.loads
    monkeypatch.setattr(scan.json, "loads", lambda line: parsed.append(line) or loads(line))
    result = scanned(tmp_path, b"".join(line.encode() for line in lines))
    assert (result.update, result.series["loss/test/total"].final_update) == (4999, 4900)
    assert len(parsed) < 60


def test_a_line_or_a_number_of_keys_beyond_all_limits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = MetricRecord(0, 0, 0, 1.0, {f"key/{number}": 1.0 for number in range(10_001)}).encode()
    with pytest.raises(StorageError, match="10000 metric keys"):
        scanned(tmp_path, many)
    monkeypatch.setattr(scan, "_LONGEST", 1000)
    monkeypatch.setattr(scan, "_CHUNK", 100)
    with pytest.raises(StorageError, match="1000 bytes"):
        scanned(tmp_path, b"x" * 5000)
