"""Files that are written piece by piece have the bytes that the safetensors library makes."""

from __future__ import annotations

import cProfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from noether.checkpoint.snapshot import Snapshot
from noether.checkpoint.tensor_file import (
    _KINDS,
    TensorFile,
    all_finite,
    decode_tensors,
    encode_tensors,
    lay_out_tensors,
)
from noether.errors import TrainingError

shapes = st.sampled_from([(), (0,), (1,), (3,), (2, 3), (2, 0, 2), (300, 300)])
tensors = st.builds(
    lambda shape, dtype: (torch.arange(torch.Size(shape).numel()) % 2).reshape(shape).to(dtype),
    shapes,
    st.sampled_from(list(_KINDS)),
)
names = st.text('ab./é\n"\\\x7f', min_size=1, max_size=5)


@given(st.dictionaries(names, tensors, max_size=5))
def test_the_bytes_are_those_of_the_library(held: dict[str, torch.Tensor]) -> None:
    file, aliases = lay_out_tensors(held)
    assert aliases == {}
    written = b"".join(file.chunks())
    assert written == save(held)
    assert len(file) == len(written)


def test_all_kinds_that_the_library_knows_are_written_as_it_does() -> None:
    held = {str(dtype): torch.ones(3).to(dtype) for dtype in _KINDS}
    assert b"".join(lay_out_tensors(held)[0].chunks()) == save(held)


@pytest.mark.parametrize("mib", [1, 3])
def test_large_tensors_come_in_pieces_and_are_not_copied(mib: int) -> None:
    large = torch.arange(mib * 2**18, dtype=torch.float32)
    pieces = list(lay_out_tensors({"small": torch.ones(2), "w": large})[0].chunks())
    assert len(pieces) == mib + 2  # the header, and what is small
    assert b"".join(pieces) == save({"small": torch.ones(2), "w": large})
    large.fill_(7)
    assert torch.frombuffer(bytearray(pieces[-1]), dtype=torch.float32).eq(7).all()


def test_what_lies_elsewhere_or_not_in_a_row_is_written_in_order() -> None:
    square = torch.arange(6.0).view(2, 3)
    held = {"t": square.t(), "conj": torch.tensor([1 + 2j]).conj(), "neg": torch.tensor([1 + 2j]).conj().imag}
    plain = {"t": square.t().contiguous(), "conj": torch.tensor([1 - 2j]), "neg": torch.tensor([-2.0])}
    assert b"".join(lay_out_tensors(held)[0].chunks()) == save(plain)


META = torch.zeros(2, device="meta")


@pytest.mark.parametrize(
    "tensor",
    [torch.empty(2, dtype=torch.float8_e8m0fnu), torch.zeros(2).to_sparse(), META],
    ids=["dtype", "sparse", "meta"],
)
def test_a_type_that_the_format_lacks_is_refused_by_its_name(tensor: torch.Tensor) -> None:
    with pytest.raises(TrainingError) as caught:
        TensorFile.of({"w": tensor})
    assert "'w'" in str(caught.value)


def test_complex_numbers_that_the_format_lacks_are_written_as_pairs() -> None:
    values = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex128).conj()
    data, aliases = encode_tensors({"w": values, "again": values, "x": torch.ones(1)})
    assert torch.equal(load(data)["again"], torch.view_as_real(values.resolve_conj()))
    decoded = decode_tensors(data, aliases)
    assert torch.equal(decoded["w"], values)
    assert decoded["w"] is decoded["again"]


@pytest.mark.parametrize("name", ["__metadata__", "half \ud800"])
def test_a_name_that_the_format_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(TrainingError) as caught:
        TensorFile.of({name: torch.zeros(1)})
    assert repr(name) in str(caught.value)


def test_a_small_tensor_costs_few_calls() -> None:
    """Thousands of small tensors take the time of the calls for each, not that of their bytes."""

    def calls(count: int) -> int:
        tensors = {f"layers.{index}.weight": torch.ones(8) for index in range(count)}
        profile = cProfile.Profile()
        profile.enable()
        file, _ = lay_out_tensors(tensors)
        assert all_finite(file.tensors.values())
        assert sum(map(len, file.chunks())) == len(file)
        profile.disable()
        return sum(entry.callcount for entry in profile.getstats())

    assert (calls(3000) - calls(1000)) / 2000 < 16


def test_a_snapshot_is_written_without_a_call_for_each_tensor() -> None:
    file, _ = lay_out_tensors({f"layers.{index}.weight": torch.ones(8) for index in range(3000)})
    taken = Snapshot().take({"model": file})["model"]
    assert isinstance(taken, TensorFile)
    profile = cProfile.Profile()
    profile.enable()
    content = b"".join(taken.chunks())
    profile.disable()
    assert sum(entry.callcount for entry in profile.getstats()) < 60
    assert content == b"".join(file.chunks())


@given(
    sizes=st.lists(st.sampled_from([0, 1, 3, 70_000, 300_000]), min_size=1, max_size=6),
    dtypes=st.lists(st.sampled_from([torch.float32, torch.bfloat16, torch.uint16, torch.bool]), min_size=6, max_size=6),
)
def test_joined_tensors_give_the_bytes_of_each_in_order(sizes: list[int], dtypes: list[torch.dtype]) -> None:
    tensors = {
        str(i): torch.randint(0, 2, (n,)).to(kind) for i, (n, kind) in enumerate(zip(sizes, dtypes, strict=False))
    }
    encoded, _ = encode_tensors(tensors)
    decoded = decode_tensors(encoded, {})
    assert decoded.keys() == tensors.keys()
    assert all(torch.equal(decoded[name].int(), tensors[name].int()) for name in tensors)
