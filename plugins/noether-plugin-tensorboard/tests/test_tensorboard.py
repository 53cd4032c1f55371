"""Event files, read back with TensorBoard's own reader: every point once, whatever happened to the run."""

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from noether_plugin_tensorboard.events import EventFile, histogram, points_in, scalar, table
from noether_plugin_tensorboard.tracker import TensorboardTracker, TensorboardTrackerConfig
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import noether
from noether.core.callbacks import PeriodicCallback
from noether.core.trackers import MetricRecord, RunDescription, TrackerSettingError
from noether.testing import tiny_spec

TRACKERS = [{"kind": "tensorboard"}]


class Draws(PeriodicCallback):
    """Adds one result of each kind."""

    def periodic_callback(self, *, update_counter, **_) -> None:
        self.writer.add_figure("picture", torch.full((2, 3), update_counter.update / 12))
        self.writer.add_histogram("weights", torch.tensor([0.0, 1.0, 1.0, 2.0]), bins=2)
        self.writer.add_table("errors", {"sample": [1, 2], "error": [0.5, None]})
        self.writer.add_file("file", __file__)


class FailsOnce(PeriodicCallback):
    """Fails at update 8, if the file `fails` is there."""

    def periodic_callback(self, *, update_counter, **_) -> None:
        if update_counter.update == 8 and Path("fails").exists():
            Path("fails").unlink()
            raise RuntimeError("once")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noether_registry) -> None:
    monkeypatch.chdir(tmp_path)
    noether_registry("tracker", "tensorboard", TensorboardTracker)
    for target in (Draws, FailsOnce):
        noether_registry("callback", target.__name__.lower(), target)


def run(**options) -> noether.Outcome:
    callbacks = [
        {"kind": "draws", "every_n_updates": 3},
        {"kind": "checkpoint", "every_n_updates": 5},
        {"kind": "failsonce", "every_n_updates": 1},
    ]
    spec = tiny_spec(trainer={"callbacks": callbacks, "track_every_n_updates": 1}, trackers=TRACKERS)
    return noether.run({**spec, "output": "runs"}, run_id="r", quiet=True, **options)


def shown(folder: Path) -> EventAccumulator:
    return EventAccumulator(
        str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    ).Reload()


def steps(folder: Path) -> dict[str, list[int]]:
    """Return the steps of each tag."""
    read = shown(folder)
    ways = {"scalars": read.Scalars, "images": read.Images, "histograms": read.Histograms, "tensors": read.Tensors}
    return {tag: [event.step for event in way(tag)] for kind, way in ways.items() for tag in read.Tags()[kind]}


def test_a_run_is_shown_with_its_metrics_results_and_parameters():
    folder = run().run_dir / "tensorboard"
    read = shown(folder)
    found = steps(folder)
    assert found["loss/online/total"] == list(range(1, 13))
    assert [found[tag] for tag in ("picture", "weights", "errors")] == [[3, 6, 9, 12]] * 3
    first = read.Images("picture")[0]
    assert (first.width, first.height) == (3, 2)
    assert np.asarray(Image.open(io.BytesIO(first.encoded_image_string))).tolist() == [[64] * 3] * 2
    value = read.Histograms("weights")[0].histogram_value
    assert (value.min, value.max, value.num, list(value.bucket), list(value.bucket_limit)) == (0, 2, 4, [1, 3], [1, 2])
    assert text(read, "errors") == "|sample|error|\n|---|---|\n|1|0.5|\n|2||"
    assert "|trainer.max_updates|12|" in text(read, "parameters")
    assert "file" not in found


def text(read: EventAccumulator, tag: str) -> str:
    return make_ndarray(read.Tensors(tag)[0].tensor_proto)[0].decode()


def test_a_run_that_failed_and_went_on_shows_every_point_once():
    Path("fails").touch()
    assert run().status == "FAILED"
    outcome = run(resume="auto")
    assert outcome.status == "FINISHED", outcome.error
    found = steps(outcome.run_dir / "tensorboard")
    assert found["loss/online/total"] == list(range(1, 13))
    assert found["picture"] == [3, 6, 9, 12]
    doubled = {tag: count for tag, at in found.items() for count in Counter(at).values() if count > 1}
    assert doubled == {}


def test_event_files_of_one_second_are_read_in_the_order_in_which_they_were_begun(tmp_path, monkeypatch):
    for step, nanoseconds in enumerate((99_999_999, 100_000_000), start=1):
        monkeypatch.setattr("time.time_ns", lambda at=nanoseconds: 1_800_000_000 * 10**9 + at)
        EventFile(tmp_path).add([(step, 1.0, [scalar("loss", 1.0)])])
    assert steps(tmp_path)["loss"] == [1, 2]


def test_a_sync_compares_every_value_and_sends_again_what_the_event_files_have_lost():
    folder = run().run_dir / "tensorboard"
    assert verified()["missing"] == 0
    whole = steps(folder)
    (file,) = [path for path in folder.iterdir() if path.stat().st_size > 1000]
    with file.open("r+b") as torn:
        torn.truncate(file.stat().st_size // 2)
    lost = sum(map(len, whole.values())) - sum(map(len, steps(folder).values()))
    assert lost > 5 and verified()["resent"] == lost
    assert {tag: sorted(at) for tag, at in steps(folder).items()} == whole
    EventFile(folder).add([(1, 1.0, [scalar("loss/online/total", 7.0)])])
    assert "loss/online/total" in verified(ends=1)["error"]


def verified(ends: int = 0) -> dict:
    """Return the answer of `noether tracker sync --verify` for the tracker of the run."""
    command = [sys.executable, "-m", "noether", "tracker", "sync", "runs/r", "--verify", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ends, done.stderr
    (synced,) = json.loads(done.stdout)
    return synced


def opened(folder: Path, **fields) -> TensorboardTracker:
    tracker = TensorboardTracker(TensorboardTrackerConfig(kind="tensorboard"))
    tracker.open(RunDescription(run_id="r", name="n", run_dir=folder, params={"a": "1"}, **fields))
    return tracker


def record(update: int) -> MetricRecord:
    return MetricRecord(update=update, epoch=0, sample=update, time=1.0, metrics={"loss": 1.0 / update})


def test_a_file_that_a_killed_process_has_left_torn_costs_its_last_event_only(tmp_path: Path):
    opened(tmp_path).log_metrics([record(1), record(2)])
    (file,) = (tmp_path / "tensorboard").iterdir()
    with file.open("r+b") as torn:
        torn.truncate(file.stat().st_size - 3)
    again = opened(tmp_path)
    assert again.newest_update() == 1
    again.log_metrics([record(1), record(2), record(3)])
    assert steps(tmp_path / "tensorboard")["loss"] == [1, 2, 3]


def test_a_run_that_replaces_another_leaves_it_as_it_is(tmp_path: Path):
    opened(tmp_path).log_metrics([record(1)])
    opened(tmp_path, continues={"name": "tensorboard"}, token="0123456789").log_metrics([record(1)])
    assert (
        points_in(tmp_path / "tensorboard")
        == points_in(tmp_path / "tensorboard-01234567")
        == {("loss", 1), ("parameters", 0)}
    )


def test_a_link_in_the_run_folder_is_refused(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrackerSettingError):
        opened(tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100, bytes(8) + b"?" * 100])
def test_a_file_that_holds_no_events_has_no_points(tmp_path: Path, content: bytes):
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    assert points_in(tmp_path) == set()


def test_cells_of_a_table_stay_in_their_cells_and_long_tables_are_cut():
    shown = table("t", ["a|b"], [["x\n|y"], *[[1]] * 300]).tensor.string_val[0].decode()
    assert shown.splitlines()[:3] == ["|a\\|b|", "|---|", "|x \\|y|"]
    assert "101 more rows" in shown


def test_the_sum_of_a_histogram_is_that_of_its_middles():
    found = histogram("h", [0.0, 1.0, 3.0], [2, 1]).histo
    assert (found.sum, found.sum_squares) == (3.0, 4.5)


def test_tensorflow_is_never_imported(tmp_path: Path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
    code = f"""
from pathlib import Path
from noether_plugin_tensorboard.events import EventFile, points_in, scalar, text
folder = Path({str(tmp_path)!r})
file = EventFile(folder)
file.add([(3, 0.0, [scalar("a", 1.0), text("b", "c")])])
assert points_in(folder) == {{("a", 3), ("b", 3)}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
