"""Figures, tables, histograms and files: what is taken, what is written, and what is read back."""

import errno
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from noether.checkpoint import durable
from noether.errors import StorageError, TrainingError
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricRecord, MetricsFile
from noether.metrics.results import Content, Limits, Result, ResultsFile, folder_of, results_in


def counter_at(update):
    start = TrainingIteration(epoch=update // 10, update=update, sample=update * 4)
    return UpdateCounter(start, TrainingIteration(update=100), updates_per_epoch=10, effective_batch_size=4)


@pytest.fixture
def opened(tmp_path):
    """Opens the writer of a run folder, as each attempt does."""
    made = []

    def writer(limits=None):
        made.append(LogWriter(MetricsFile(tmp_path / "metrics.jsonl"), limits=limits))
        return made[-1]

    yield writer
    for each in made:
        each.close()


@pytest.fixture
def writer(opened):
    return opened()


@pytest.fixture
def kept(writer, tmp_path):
    """Ends the round and returns the only result."""

    def only():
        writer.flush(counter_at(12))
        (result,) = results_in(tmp_path)
        return result

    return only


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("results/**/*") if path.is_file())


def picture(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_result_is_listed_with_its_update_and_lies_in_the_folder_of_its_key(writer, kept, tmp_path):
    writer.below("ema=0.9/").add_table("errors", {"a": [1]})
    result = kept()
    assert (result.update, result.epoch, result.sample) == (12, 1, 48)
    assert (result.key, result.kind) == ("ema=0.9/errors", "table")
    assert files_in(tmp_path) == [result.file]
    assert result.file.endswith("/U000000000012.json")


# Figures


def plotted():
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.add_subplot().plot([1, 3, 2])
    return figure


def cannot_be_drawn():
    figure = plotted()
    figure.axes[0].set_title(r"$\frac{$")
    return figure


def test_a_matplotlib_figure_is_drawn_when_it_is_added(writer, kept, tmp_path):
    figure = plotted()
    writer.add_figure("curve", figure)
    figure.clear()
    pixels = picture(kept().read(tmp_path))
    assert pixels.shape == (50, 100, 4)
    assert pixels.min() < 128


def test_drawing_needs_no_display_changes_no_backend_and_draws_no_random_numbers():
    code = """
import random, sys, torch, matplotlib
from matplotlib.figure import Figure
from noether.metrics.figures import encoded
state = lambda: (matplotlib.get_backend(), random.getstate(), torch.get_rng_state().tolist())
before = state()
assert before[0].lower() == "tkagg"
figure = Figure()
figure.add_subplot().imshow([[0, 1]])
encoded("figure", "a", figure)
assert before == state()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": "TkAgg"})


def test_a_pillow_image_stays_as_it_is(writer, kept, tmp_path):
    writer.add_figure("x", Image.new("RGB", (3, 2), (1, 2, 3)))
    assert picture(kept().read(tmp_path)).tolist() == [[[1, 2, 3]] * 3] * 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([[0.0, 0.5, 1.0]], requires_grad=True), [[0, 128, 255]]),
        (np.array([[False, True]]), [[0, 255]]),
        (torch.tensor([[0, 7, 255]], dtype=torch.uint8), [[0, 7, 255]]),
        (np.array([[1, 255]]), [[1, 255]]),
        (torch.ones(1, 2, 3, dtype=torch.bfloat16), [[[255] * 3] * 2]),
        (np.zeros((1, 1, 4), dtype=np.float16), [[[0] * 4]]),
        (np.array([[1.001, -0.001]]), [[255, 0]]),
    ],
)
def test_an_array_or_tensor_is_a_picture(writer, kept, tmp_path, values, expected):
    writer.add_figure("x", values)
    assert picture(kept().read(tmp_path)).tolist() == expected


@pytest.mark.parametrize(
    ("figure", "found", "way_out"),
    [
        ("a.png", "type str", "give a matplotlib figure"),
        (torch.zeros(3, 8, 8), "(3, 8, 8)", ".permute(1, 2, 0)"),
        (torch.zeros(8), "(8,)", "shape (height, width)"),
        (torch.zeros(0, 4), "(0, 4)", "shape (height, width)"),
        (torch.tensor([[0.0, 2.0]]), "numbers from 0 to 2", "scale it first"),
        (np.array([[np.nan]]), "nan", "scale it first"),
        (np.array([[256]]), "256", "scale it first"),
        (np.array([["x"]]), "<U1", "give a matplotlib figure"),
        (Image.new("F", (2, 2)), "OSError", 'convert("RGB")'),
        (plotted().axes[0], "type Axes", "axes.figure"),
        (cannot_be_drawn(), "raised ValueError: \\frac{ ^", "savefig(path) raises the same"),
    ],
)
def test_anything_else_is_an_error_that_names_the_key_and_the_way_out(writer, figure, found, way_out):
    with pytest.raises(TrainingError) as caught:
        writer.below("best/").add_figure("picture", figure)
    for text in ("'best/picture'", found, way_out):
        assert text in str(caught.value)
    writer.flush(counter_at(1))
    assert not writer.metrics_file.path.with_name("results.jsonl").exists()


# Tables

FRAME = pd.DataFrame(
    {"n": pd.array([1, None], dtype="Int64"), "x": [0.5, np.nan], "ok": [True, False], "name": ["a", None]},
    index=[7, 8],
)


@pytest.mark.parametrize(
    ("given", "types", "rows"),
    [
        ({"a": [1, 2], "b": ["x", None]}, {"a": "int", "b": "text"}, [[1, "x"], [2, None]]),
        (
            {"a": torch.tensor([0.5, torch.inf]), 3: np.arange(2)},
            {"a": "float", "3": "int"},
            [[0.5, 0], [torch.inf, 1]],
        ),
        ([{"a": 1}, {"a": 0.5, "b": torch.tensor(True)}], {"a": "float", "b": "bool"}, [[1.0, None], [0.5, True]]),
        (
            FRAME,
            {"n": "int", "x": "float", "ok": "bool", "name": "text"},
            [[1, 0.5, True, "a"], [None, None, False, None]],
        ),
        ({"NaN": ["NaN"]}, {"NaN": "text"}, [["NaN"]]),
        ({"a": [1, 2**63, None, -(10**30)]}, {"a": "int"}, [[1], [2**63], [None], [-(10**30)]]),
        ({}, {}, []),
        ([], {}, []),
        ({"a": []}, {"a": "text"}, []),
    ],
)  # fmt: skip
def test_a_table_comes_back_with_the_types_of_its_columns(writer, kept, tmp_path, given, types, rows):
    writer.add_table("t", given)
    result = kept()
    assert result.types == types
    table = result.table(tmp_path)
    assert list(table.columns) == list(types)
    found = [[None if pd.isna(value) else value for value in row] for row in table.to_numpy(dtype=object).tolist()]
    assert found == rows


def test_numbers_that_are_not_finite_stay_apart_from_missing_ones_and_texts(writer, kept, tmp_path):
    writer.add_table("t", {"x": [float("nan"), None, float("-inf")]})
    assert json.loads(kept().read(tmp_path)) == {"columns": ["x"], "data": [["NaN"], [None], ["-Infinity"]]}


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ([1, 2], "type list"),
        ({"a": 3}, "'a'"),
        ({"a": "text"}, "'a'"),
        ({"a": [1], "b": [1, 2]}, "a: 1, b: 2"),
        ({"a": [1, "x"]}, "int and str"),
        ({"a": [object()]}, "object"),
        ({"a": torch.zeros(2, 2)}, "(2, 2)"),
        ({"1": [1], 1: [2]}, "one name"),
        (pd.DataFrame({"t": pd.to_datetime(["2026-01-01"])}), "Timestamp"),
        ({"a": [0.5, 10**400]}, "no file can hold"),
        ({"a": [10**5000]}, "no file can hold"),
        ({"a": ["\ud800"]}, "no file can hold"),
    ],
)
def test_a_value_that_is_no_table_is_an_error_that_names_its_column(writer, table, found):
    with pytest.raises(TrainingError) as caught:
        writer.add_table("my/table", table)
    assert "'my/table'" in str(caught.value)
    assert found in str(caught.value)


@pytest.mark.parametrize("key", ["", "a\nb", "\x1b[31m", "\ud800", 3])
def test_a_key_that_no_file_or_terminal_can_show_is_refused(writer, key):
    for add in (writer.add_scalar, writer.add_histogram):
        with pytest.raises(TrainingError):
            add(key, 1.0)


WITHOUT_VALUES = {"sparse": torch.eye(3).to_sparse(), "meta": torch.empty(3, 3, device="meta")}


@pytest.mark.parametrize("name", WITHOUT_VALUES)
def test_a_tensor_without_values_is_an_error_that_names_the_key(writer, name):
    tensor = WITHOUT_VALUES[name]
    for add in (lambda: writer.add_table("t", {"a": tensor[0]}), lambda: writer.add_figure("t", tensor)):
        with pytest.raises(TrainingError, match="'t' cannot be added"):
            add()


def test_a_table_takes_tensors_that_need_gradients(writer, kept, tmp_path):
    weights = torch.ones(2, requires_grad=True) * 2
    writer.add_table("t", {"a": weights})
    assert kept().table(tmp_path)["a"].tolist() == [2.0, 2.0]


# Histograms


def test_a_histogram_counts_as_numpy_does(writer, kept, tmp_path):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    writer.add_histogram("h", values.reshape(10, 100), bins=7)
    counts, edges = np.histogram(values.numpy(), bins=7)
    table = kept().table(tmp_path)
    assert table["count"].tolist() == counts.tolist()
    np.testing.assert_allclose([*table["low"], table["high"].iloc[-1]], edges)


def test_values_that_are_not_finite_or_outside_of_the_edges_are_counted_apart(writer, kept, tmp_path):
    writer.add_histogram("h", [0.0, 1.0, 2.0, 3.0, float("nan"), float("inf")], bins=[0.0, 1.0, 2.0])
    assert json.loads(kept().read(tmp_path)) == {"edges": [0.0, 1.0, 2.0], "counts": [1, 2], "left_out": 3}


@pytest.mark.parametrize(
    "values", [[], [float("nan")], [5.0, 5.0], torch.tensor([True]), torch.zeros(2, dtype=torch.int8)]
)
def test_a_histogram_of_nothing_or_of_one_value_has_increasing_edges(writer, kept, tmp_path, values):
    writer.add_histogram("h", values, bins=3)
    body = json.loads(kept().read(tmp_path))
    assert sum(body["counts"]) + body["left_out"] == len(values)
    assert sorted(set(body["edges"])) == body["edges"]


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([1.0, 1.0000001]),
        torch.tensor([3.4e38]),
        torch.tensor([1e-45, 2e-45]),
        torch.tensor([2**62, 2**62 + 2**40]),
        torch.tensor([1.7e308], dtype=torch.float64),
    ],
    ids=["next to each other", "the largest", "the smallest", "large whole numbers", "the largest double"],
)
def test_a_histogram_of_a_range_without_room_for_its_edges_has_a_wider_one(writer, kept, tmp_path, values):
    writer.add_histogram("h", values)
    body = json.loads(kept().read(tmp_path))
    assert (sum(body["counts"]), body["left_out"]) == (len(values), 0)
    assert sorted(set(body["edges"])) == body["edges"]


@pytest.mark.parametrize("make", [torch.tensor, lambda given: np.array(given, dtype="float32")])
def test_edges_that_are_changed_in_place_later_keep_their_histogram(writer, kept, tmp_path, make):
    edges = make([0.0, 2.0, 3.0])
    writer.add_histogram("h", [1.0], bins=edges)
    edges[:] = 7.0
    assert json.loads(kept().read(tmp_path))["edges"] == [0.0, 2.0, 3.0]


@pytest.mark.parametrize("bins", [torch.tensor([0j, 1j]), 0, -1, 1.5, "auto", [1.0], [2.0, 1.0], None, True, 10**9])
def test_wrong_bins_are_an_error(writer, bins):
    with pytest.raises(TrainingError, match="bins"):
        writer.add_histogram("h", torch.zeros(3), bins=bins)


@pytest.mark.parametrize(
    "values", [torch.zeros(2, dtype=torch.complex64), "text", torch.empty(2, device="meta"), [None]]
)
def test_a_histogram_of_what_has_no_order_is_an_error(writer, values):
    with pytest.raises(TrainingError, match="'h'"):
        writer.add_histogram("h", values)


def test_a_tensor_that_is_changed_in_place_later_keeps_its_histogram(writer, kept, tmp_path):
    values = torch.arange(4.0)
    writer.add_histogram("h", values, bins=[0.0, 2.0, 3.0])
    values.zero_()
    assert json.loads(kept().read(tmp_path))["counts"] == [2, 2]


# Files


def test_a_file_is_copied_when_it_is_added(writer, kept, tmp_path):
    given = tmp_path / "Flow.VTU"
    given.write_bytes(b"mesh")
    writer.add_file("flow", given)
    given.unlink()
    result = kept()
    assert result.file == "results/flow/U000000000012.vtu"
    assert result.read(tmp_path) == b"mesh"


def test_an_empty_file_is_kept_too(writer, kept, tmp_path):
    (tmp_path / "empty").touch()
    writer.add_file("f", str(tmp_path / "empty"))
    result = kept()
    assert (result.file, result.read(tmp_path)) == ("results/f/U000000000012.bin", b"")


@pytest.mark.parametrize("path", ["missing.txt", ".", b"x", 3])
def test_a_file_that_cannot_be_read_is_an_error(writer, path):
    with pytest.raises(TrainingError, match="'f'"):
        writer.add_file("f", path)


# Keys


@pytest.mark.parametrize("key", [7, None, "", "a\nb", "\x1b[2J"])
def test_a_key_that_is_not_a_name_is_an_error(writer, key):
    with pytest.raises(TrainingError, match="wrong key of a table"):
        writer.add_table(key, {})


KEYS = [
    "a",
    "A",
    "a/b",
    "a-b",
    "a=b",
    "../../etc/passwd",
    "/etc",
    ".",
    "..",
    "-rf",
    "con",
    "é",
    "日本",
    "x" * 5000,
    "x" * 64,
]
KEYS += ["ema=0.9/loss", "  ", "a\\b", "a:b"]


def test_every_key_has_a_folder_of_its_own_whose_name_any_disk_takes(writer, tmp_path):
    folders = [folder_of(key) for key in KEYS]
    assert len({name.lower() for name in folders}) == len(KEYS)
    for key in KEYS:
        writer.add_table(key, {"key": [key.encode("utf-8", "replace").decode()]})
    writer.flush(counter_at(3))
    assert {result.key: result.file.split("/")[1] for result in results_in(tmp_path)} == dict(
        zip(KEYS, folders, strict=True)
    )
    assert files_in(tmp_path) == sorted(f"results/{name}/U000000000003.json" for name in folders)


def test_two_rounds_of_one_update_keep_both_results(writer, tmp_path):
    """`after_training` belongs to the last update too."""
    for value in (1, 2):
        writer.add_table("t", {"value": [value]})
        writer.flush(counter_at(5))
    results = list(results_in(tmp_path))
    assert [result.file for result in results] == ["results/t/U000000000005.json", "results/t/U000000000005-2.json"]
    assert [result.table(tmp_path)["value"].tolist() for result in results] == [[1], [2]]


# Limits


@pytest.mark.parametrize(
    ("limits", "named"), [(Limits(number=2), "trainer.max_results;"), (Limits(size=90), "trainer.max_results_mb")]
)
def test_more_results_than_the_limit_are_left_out_and_the_log_says_it_once(opened, tmp_path, caplog, limits, named):
    writer = opened(limits)
    with caplog.at_level(logging.WARNING):
        for update in range(1, 6):
            writer.add_table("t", {"update": [update]})
            writer.add_scalar("loss", 0.5)
            writer.flush(counter_at(update))
    assert [result.update for result in results_in(tmp_path)] == [1, 2]
    assert len(files_in(tmp_path)) == 2
    assert len(list(writer.metrics_file.read())) == 5
    (warning,) = caplog.messages
    assert named.rstrip(";") in warning


def test_a_table_of_too_many_values_is_left_out(writer, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("noether.checkpoint.untrusted.MAX_ITEMS", 1000)
    writer.add_table("t", {"x": np.zeros(1001)})
    writer.flush(counter_at(1))
    assert list(results_in(tmp_path)) == []
    assert "1000 values" in caplog.text


def test_a_file_that_is_too_large_is_not_read(opened, tmp_path, caplog):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    opened().add_file("f", tmp_path / "huge")
    assert "max_results_mb" in caplog.text


# Resume


def test_a_resume_cuts_the_list_back_and_removes_the_files_that_it_does_not_name(opened, tmp_path):
    writer = opened()
    for update in (1, 2, 3):
        writer.add_table("t", {"update": [update]})
        writer.flush(counter_at(update))
        if update == 1:
            state, logs = writer.state_dict(), writer.written()
    writer.close()
    (tmp_path / "results/t/U000000000009.json").write_text("of a killed process")
    (tmp_path / "results/t/.U000000000009.json.77.tmp").write_text("half")
    for theirs in ("results/t/notes.txt", "results/U000000000001.png", "results/of mine/U000000000001.png"):
        (tmp_path / theirs).parent.mkdir(exist_ok=True)
        (tmp_path / theirs).write_text("of the user")
    again = opened()
    again.load_state_dict(state, logs, 1)
    assert files_in(tmp_path) == [
        "results/U000000000001.png",
        "results/of mine/U000000000001.png",
        "results/t/U000000000001.json",
        "results/t/notes.txt",
    ]
    again.add_table("t", {"update": [2]})
    again.flush(counter_at(2))
    assert [result.update for result in results_in(tmp_path)] == [1, 2]


def test_a_checkpoint_of_a_run_without_results_is_what_it_was_before_there_were_any(writer):
    writer.add_scalar("loss", 0.5)
    writer.flush(counter_at(1))
    assert writer.state_dict().keys() == {"metrics", "nonscalars"}
    assert writer.written().keys() == {"metrics.jsonl", "nonscalars.jsonl"}


def test_links_in_place_of_results_are_neither_followed_nor_written(opened, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "U000000000001.json").write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / "results").mkdir()
    (run / "results/t").symlink_to(elsewhere)
    file = ResultsFile(run)
    file.restore(0)
    with pytest.raises(StorageError):
        file.keep(MetricRecord(1, 0, 4, 0.0), {"t": Content("table", "json", b"{}")})
    assert (elsewhere / "U000000000001.json").read_text() == "precious"
    assert list(results_in(run)) == []


def test_a_flush_that_is_tried_again_writes_each_result_once(writer, tmp_path, monkeypatch):
    writer.add_table("t", {"a": [1]})
    writer.add_scalar("loss", 0.5)

    def refuse(*_):
        monkeypatch.undo()
        raise StorageError("the disk is full")

    monkeypatch.setattr(writer.metrics_file, "append", refuse)
    with pytest.raises(StorageError):
        writer.flush(counter_at(1))
    assert list(results_in(tmp_path)) == []
    writer.flush(counter_at(1))
    assert [result.file for result in results_in(tmp_path)] == files_in(tmp_path) == ["results/t/U000000000001.json"]


@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "replace"])
def test_a_full_disk_is_an_error_that_names_the_file_and_the_round_can_be_written_later(
    writer, tmp_path, monkeypatch, call
):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer.add_table("t", {"a": [1]})
    writer.add_scalar("loss", 0.5)
    with monkeypatch.context() as full:
        full.setattr(durable.os, call, refuse)
        with pytest.raises(StorageError, match="results"):
            writer.flush(counter_at(1))
    assert not (tmp_path / "metrics.jsonl").exists()
    writer.flush(counter_at(1))
    assert [result.file for result in results_in(tmp_path)] == files_in(tmp_path) == ["results/t/U000000000001.json"]


# A folder of a stranger

LINE = Result(1, 0, 4, 0.0, "t", "table", "results/t/U000000000001.json", 3, "0" * 64, {"a": "int"})


def test_a_line_comes_back_as_it_was_written():
    assert Result.decode(LINE.encode()) == LINE


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../t/U000000000001.json"},
        {"file": "/results/t/U000000000001.json"},
        {"file": "results/../U000000000001.json"},
        {"file": "results/t/../../run.json"},
        {"file": "results/t/run.json"},
        {"file": "results/t\n/U000000000001.json"},
        {"file": 3},
        {"key": "\x1b[2J"},
        {"kind": "a\nb"},
        {"size": -1},
        {"size": True},
        {"update": "1"},
        {"sha256": "x" * 64},
        {"types": {"a": 3}},
        {"types": []},
        {"time": "now"},
        {"more": 1},
    ],
)
def test_a_line_that_no_run_has_written_is_refused(change, tmp_path):
    fields = json.loads(LINE.encode()) | change
    with pytest.raises(ValueError, match="not a line of"):
        Result.decode(json.dumps(fields).encode() + b"\n")
    (tmp_path / "results.jsonl").write_text(json.dumps(fields) + "\n")
    with pytest.raises(StorageError, match=r"results\.jsonl:1"):
        list(results_in(tmp_path))


@pytest.mark.parametrize(
    "body",
    ['{"columns": ["a"]}', '{"columns": ["a"], "data": [[1, 2]]}', '{"columns": ["b"], "data": [[1]]}', "[]", "3",
     '{"columns": ["a"], "data": [["x"]]}', "{"],
)  # fmt: skip
def test_a_table_that_is_damaged_is_an_error_that_names_its_file(tmp_path, body):
    path = tmp_path / LINE.file
    path.parent.mkdir(parents=True)
    path.write_text(body)
    digest = hashlib.sha256(body.encode()).hexdigest()
    with pytest.raises(StorageError, match="U000000000001"):
        Result(1, 0, 4, 0.0, "t", "table", LINE.file, len(body), digest, {"a": "int"}).table(tmp_path)
    with pytest.raises(StorageError):
        LINE.table(tmp_path)


def test_adding_a_table_imports_no_library_of_pictures(tmp_path):
    code = f"""
import sys
from pathlib import Path
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricsFile
writer = LogWriter(MetricsFile(Path({str(tmp_path)!r}) / "metrics.jsonl"))
writer.add_table("t", {{"a": [1]}})
writer.add_histogram("h", [1.0])
assert not {{"matplotlib", "PIL", "pandas"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Path(tmp_path).exists()
