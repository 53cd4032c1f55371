"""What a file of a checkpoint holds: bytes, or something that yields them piece by piece so that no copy is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

Chunk: TypeAlias = bytes | memoryview


class Streamed(Protocol):
    """Bytes that are made while they are written; always the same ones as long as nothing changes what is behind."""

    def __len__(self) -> int:
        """Return how many bytes they are."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield them in order."""


Content: TypeAlias = bytes | Streamed


def chunks_of(content: Content) -> Iterable[Chunk]:
    """Return the pieces of a content."""
    return (content,) if isinstance(content, bytes) else content.chunks()
