"""Samples of all shards by their number."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from noether.data import has_progressed
from noether.errors import DataError
from noether_plugin_webdataset.files import RemoteFiles, Span, files_of
from noether_plugin_webdataset.index import Places, ShardIndex, index_of

_logger = logging.getLogger(__name__)

_MOST_MAPPED = 128
_GAP = 1 << 16
"""Bytes between two members of a sample that are read in vain, rather than to read twice."""
_BLOCK_BYTES = 16 << 20
"""Bytes of consecutive samples that training reads near each other: 64 of them stay in the page cache of a machine."""


class Shards:
    """Samples of tar shards, numbered through, of which any can be read; memory does not grow with their number.

    Args:
        patterns: The shards, as a spec names them.
        folder: Folder of the index; None for the default.

    Attributes:
        suffixes: Suffixes of members in any shard.
        sample_bytes: Mean size of a sample.

    Raises:
        DataError: if a shard is missing, damaged or hostile, or there are no samples.
    """

    def __init__(self, patterns: Sequence[str], folder: Path | None = None) -> None:
        self._files = files_of(patterns)
        self._indexes = self._indexed(folder)
        counts = np.asarray([index.samples for index in self._indexes], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._mapped: OrderedDict[int, Places] = OrderedDict()
        if not len(self):
            raise DataError(
                f"{self._files.names[0]}: no samples: found none in {len(counts)} shards, expected at least 1",
                hint="a member is named key.suffix, such as 000001.cls",
            )
        self.suffixes = tuple(dict.fromkeys(suffix for index in self._indexes for suffix in index.suffixes))
        self.sample_bytes = sum(index.size for index in self._indexes) // len(self)

    def _indexed(self, folder: Path | None) -> list[ShardIndex]:
        """Return the index of each shard; those of remote ones are read side by side, since they wait."""
        if len(self._files.names) > 1:
            _logger.info("opening %d shards; one without an index is read once", len(self._files.names))
        found = []
        with ThreadPoolExecutor(16 if isinstance(self._files, RemoteFiles) else 1) as pool:
            for index in pool.map(lambda file: index_of(self._files, file, folder), range(len(self._files.names))):
                found.append(index)
                has_progressed()
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": OrderedDict()}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def source(self) -> Path:
        """Place of the first shard, for messages."""
        return Path(_without_protocol(self._files.names[0]))

    @property
    def block(self) -> int:
        """Samples in about 16 MiB, at most those of the largest shard."""
        largest = max(index.samples for index in self._indexes)
        return max(1, min(largest, _BLOCK_BYTES // max(1, self.sample_bytes)))

    def require(self, suffixes: Collection[str]) -> None:
        """Check that each sample has a member of each suffix.

        Raises:
            DataError: if one lacks it.
        """
        for suffix in suffixes:
            for file, index in enumerate(self._indexes):
                count = index.lacking.get(suffix, 0) if suffix in index.suffixes else index.samples
                if count:
                    raise DataError(
                        f"{self._files.names[file]}: missing members: found {count} of {index.samples} samples without "
                        f".{suffix}, expected one in each",
                        hint="write the samples again, or leave it out: choose members with `properties`",
                    )

    def has(self, sample: int, suffix: str) -> bool:
        """Return True if a sample has a member of a suffix."""
        file, place = self._place(sample)
        suffixes = self._indexes[file].suffixes
        return suffix in suffixes and bool(self._places(file)[place, suffixes.index(suffix), 0] >= 0)

    def member(self, sample: int, suffix: str) -> Path:
        """Return the place of a member, for messages."""
        file, place = self._place(sample)
        return Path(f"{_without_protocol(self._files.names[file])}/sample {place}/*.{suffix}")

    def _place(self, sample: int) -> tuple[int, int]:
        """Return the number of the shard of a sample, and its number in that."""
        file = int(np.searchsorted(self._starts, sample, side="right") - 1)
        return file, sample - int(self._starts[file])

    def read(self, samples: Sequence[int], suffixes: Sequence[str]) -> Iterator[tuple[int, dict[str, bytes]]]:
        """Yield the members of samples, in the order in which they lie in the shards.

        Args:
            samples: Numbers of the samples.
            suffixes: Suffixes of the members.

        Yields:
            Place in `samples`, and the members by suffix.

        Raises:
            DataError: if a sample lacks a member, a shard has changed, or an index is damaged.
        """
        order = sorted(range(len(samples)), key=samples.__getitem__)
        wanted = [self._spans(samples[place], suffixes) for place in order]
        joined = [_joined(list(spans.values())) for spans in wanted]
        content = iter(self._files.read([span for spans in joined for span in spans]))
        for place, spans, parts in zip(order, wanted, joined, strict=True):
            read = [(part, next(content)) for part in parts]
            yield place, {suffix: _cut(span, read) for suffix, span in spans.items()}

    def _spans(self, sample: int, suffixes: Sequence[str]) -> dict[str, Span]:
        file, place = self._place(sample)
        index, row = self._indexes[file], self._places(file)[place]
        spans = {}
        for suffix in suffixes:
            offset, size = row[index.suffixes.index(suffix)].tolist() if suffix in index.suffixes else (-1, -1)
            if offset == size == -1:
                raise DataError(f"{self.member(sample, suffix)} is missing: expected one in each sample")
            if min(offset, size) < 0 or offset + size > index.size:
                raise DataError(f"{index.path}, the index of a shard, is damaged", hint="delete it, and begin again")
            spans[suffix] = Span(file, offset, offset + size)
        return spans

    def _places(self, file: int) -> Places:
        if file not in self._mapped:
            self._mapped[file] = self._indexes[file].places()
            if len(self._mapped) > _MOST_MAPPED:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(file)
        return self._mapped[file]


def _without_protocol(name: str) -> str:
    """Return a name as a path has it, which makes one slash of two."""
    return name.partition("://")[2] or name


def _joined(spans: list[Span]) -> list[Span]:
    """Return spans of one file in the order of the file, those near each other as one."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.start - joined[-1].end <= _GAP:
            joined[-1] = joined[-1]._replace(end=max(span.end, joined[-1].end))
        else:
            joined.append(span)
    return joined


def _cut(span: Span, read: list[tuple[Span, bytes]]) -> bytes:
    """Return the bytes of a span from those that were read."""
    whole, data = next((part, data) for part, data in read if part.start <= span.start and span.end <= part.end)
    return data[span.start - whole.start : span.end - whole.start]
