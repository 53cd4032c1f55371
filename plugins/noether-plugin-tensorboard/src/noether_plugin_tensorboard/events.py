"""Event files of TensorBoard: one new file a process, and the points in the files that are there.

They are written and read with the `tensorboard` package, and TensorFlow is never imported, also if it is installed.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.summary.writer.record_writer import RecordWriter

_PREFIX = "events.out.tfevents"
_ROWS = 200
_COLORS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""TensorBoard's number for the colors of a PNG, by the PNG's own."""


class EventFile:
    """A new event file in a folder. It is open only while it is written, so that nothing waits in a buffer.

    Args:
        folder: The folder, which exists.
    """

    def __init__(self, folder: Path) -> None:
        seconds, rest = divmod(time.time_ns(), 10**9)
        # Files are read in the order of their names, also those of one second.
        self._path = folder / f"{_PREFIX}.{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        begin = Event(wall_time=time.time(), file_version="brain.Event:2")
        self._write([begin], "xb")  # never into a file, or a link, that is there

    def add(self, steps: Iterable[tuple[int, float, Sequence[Summary.Value]]]) -> None:
        """Write the values of some steps, each with its time in seconds since 1970."""
        self._write(
            (Event(wall_time=seconds, step=step, summary=Summary(value=values)) for step, seconds, values in steps),
            "ab",
        )

    def _write(self, events: Iterable[Any], mode: str) -> None:
        with self._path.open(mode) as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())


def points_in(folder: Path) -> set[tuple[str, int]]:
    """Return tag and step of each point in the event files of a folder; links are left out."""
    return {(value.tag, step) for step, value in _values_in(folder)}


def scalars_in(folder: Path) -> dict[str, dict[int, list[float]]]:
    """Return the numbers in the event files of a folder, by tag and step; links are left out."""
    found: dict[str, dict[int, list[float]]] = {}
    for step, value in _values_in(folder):
        if value.HasField("simple_value"):
            found.setdefault(value.tag, {}).setdefault(step, []).append(value.simple_value)
    return found


def _values_in(folder: Path) -> Iterator[tuple[int, Any]]:
    """Yield each value in the event files of a folder, with its step."""
    for path in sorted(folder.glob(f"{_PREFIX}.*")):
        if path.is_file() and not path.is_symlink():
            for event in _events_of(path):
                yield from ((event.step, value) for value in event.summary.value)


def _events_of(path: Path) -> Iterator[Any]:
    """Yield the events of a file up to its end, or to the first that a killed process has left incomplete."""
    reader = PyRecordReader_New(str(path))
    while True:
        try:
            reader.GetNext()
            event = Event.FromString(reader.record())
        except (OutOfRangeError, DataLossError):
            return
        except Exception:  # no event: protobuf and the reader have errors of their own
            return
        yield event


# Values


def scalar(tag: str, value: float) -> Summary.Value:
    """Return a point of a curve; TensorBoard keeps 32 bits of it."""
    return Summary.Value(tag=tag, simple_value=value)


def image(tag: str, png: bytes) -> Summary.Value:
    """Return a picture as it was written."""
    width, height, _, colors = struct.unpack(">IIBB", png[16:26])
    picture = Summary.Image(height=height, width=width, colorspace=_COLORS.get(colors, 4), encoded_image_string=png)
    return Summary.Value(tag=tag, image=picture)


def histogram(tag: str, edges: Sequence[float], counts: Sequence[int]) -> Summary.Value:
    """Return a histogram; its sums are those of the middles of the bins."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    found = HistogramProto(
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
        sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
        bucket_limit=edges[1:],
        bucket=counts,
    )
    return Summary.Value(tag=tag, histo=found)


def table(tag: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Summary.Value:
    """Return the first rows of a table as text."""
    lines = [_row(columns), "|" + "---|" * len(columns), *map(_row, rows[:_ROWS])]
    more = f"\n\n{len(rows) - _ROWS} more rows are in the run folder" if len(rows) > _ROWS else ""
    return text(tag, "\n".join(lines) + more)


def parameters(tag: str, values: Mapping[str, str]) -> Summary.Value:
    """Return all parameters of a run as a table."""
    rows = list(values.items())
    lines = [_row(("parameter", "value")), "|---|---|", *map(_row, rows)]
    return text(tag, "\n".join(lines))


def text(tag: str, markdown: str) -> Summary.Value:
    """Return a text."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode("utf-8", "replace")], tensor_shape=shape)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _row(cells: Sequence[object]) -> str:
    return "|" + "|".join(_cell(cell) for cell in cells) + "|"


def _cell(value: object) -> str:
    shown = "" if value is None else str(value)
    return " ".join(shown.replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`").split())
