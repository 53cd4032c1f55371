"""The manifest detects changes of itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.checkpoint.manifest import FORMAT, FileRecord, Manifest, NamedCheckpoint, NewerFormatError

names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
paths = st.from_regex(r"[a-z0-9_][A-Za-z0-9._=-]{0,8}(/[a-z0-9][a-z0-9.]{0,4})?", fullmatch=True)
counts = st.integers(0, 10**12)
records = st.dictionaries(paths, st.binary(max_size=4).map(FileRecord.of), max_size=3)
aliases = st.dictionaries(names.map("alias {}".format), names.map("name {}".format), max_size=2)
manifests = st.builds(
    Manifest,
    epoch=counts,
    update=counts,
    sample=counts,
    files=st.just({"model.safetensors": FileRecord.of(b"weights")}) | records,
    aliases=st.just({}),
    names=st.dictionaries(names, st.builds(NamedCheckpoint, counts, paths), max_size=3),
    spec_sha256=names,
    parent=st.none() | st.just("step-000000000001"),
    resumable=st.booleans(),
)
EXAMPLE = Manifest(1, 6, 24, {"model.safetensors": FileRecord.of(b"weights")}, names={"last": NamedCheckpoint(6)})


@given(manifests, aliases)
def test_a_manifest_reads_back_as_it_was(manifest: Manifest, tied: dict[str, str]) -> None:
    manifest = replace(manifest, aliases=dict.fromkeys(manifest.files, tied))
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
def test_a_file_that_is_not_a_manifest_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Manifest.decode(text.encode())


def signed(body: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}).encode()


def test_a_later_format_is_refused_by_its_number() -> None:
    body = json.loads(EXAMPLE.encode())
    del body["sha256"]
    with pytest.raises(NewerFormatError) as caught:
        Manifest.decode(signed({**body, "format": FORMAT + 1}))
    assert str(FORMAT + 1) in str(caught.value)


def test_a_step_is_named_by_its_counters() -> None:
    assert EXAMPLE.iteration == "E1_U6_S24"


def test_a_manifest_says_nothing_of_time_or_place() -> None:
    again = Manifest(1, 6, 24, {"model.safetensors": FileRecord.of(b"weights")}, names={"last": NamedCheckpoint(6)})
    assert again.encode() == EXAMPLE.encode()
