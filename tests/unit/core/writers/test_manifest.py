"""The manifest vouches for itself."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.core.writers.manifest import FORMAT, FileRecord, Manifest, NamedStep

names = st.text(min_size=1, max_size=8)
counts = st.integers(0, 10**12)
manifests = st.builds(
    Manifest,
    epoch=counts,
    update=counts,
    sample=counts,
    files=st.dictionaries(names, st.binary(max_size=4).map(FileRecord.of), max_size=3),
    aliases=st.dictionaries(names, st.dictionaries(names, names, max_size=2), max_size=2),
    names=st.dictionaries(names, st.builds(NamedStep, counts, names), max_size=3),
    spec_sha256=names,
    parent=st.none() | names,
    resumable=st.booleans(),
)
EXAMPLE = Manifest(1, 6, 24, {"model.safetensors": FileRecord.of(b"weights")}, names={"last": NamedStep(6)})


@given(manifests)
def test_a_manifest_reads_back_as_it_was(manifest: Manifest) -> None:
    assert Manifest.decode(manifest.encode()) == manifest


@given(st.data())
def test_any_flipped_bit_and_any_cut_is_noticed(data: st.DataObject) -> None:
    encoded = bytearray(EXAMPLE.encode())
    place = data.draw(st.integers(0, len(encoded) - 1), label="place")
    with pytest.raises(ValueError):
        Manifest.decode(bytes(encoded[:place]))
    encoded[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    with pytest.raises(ValueError):
        Manifest.decode(bytes(encoded))


@pytest.mark.parametrize("text", ["null", "5", '"text"', "[]", "{}", ""])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Manifest.decode(text.encode())


def signed(body: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}).encode()


def test_a_later_format_is_refused_by_its_number() -> None:
    body = json.loads(EXAMPLE.encode())
    del body["sha256"]
    with pytest.raises(ValueError, match=f"format {FORMAT + 1}"):
        Manifest.decode(signed({**body, "format": FORMAT + 1}))


def test_a_step_is_named_by_its_counters() -> None:
    assert EXAMPLE.iteration == "E1_U6_S24"


def test_a_manifest_says_nothing_of_time_or_place() -> None:
    again = Manifest(1, 6, 24, {"model.safetensors": FileRecord.of(b"weights")}, names={"last": NamedStep(6)})
    assert again.encode() == EXAMPLE.encode()
