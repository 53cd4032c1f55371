"""A snapshot keeps the bytes of its moment, in memory that is reused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noether.checkpoint.durable import chunks_of
from noether.checkpoint.save import Snapshot
from noether.checkpoint.tensor_file import TensorFile, lay_out_tensors

KINDS = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.uint16, torch.bool, torch.complex64]


def file_of(**tensors: Tensor) -> TensorFile:
    return lay_out_tensors(tensors)[0]


def content(file: object) -> bytes:
    return b"".join(bytes(chunk) for chunk in chunks_of(file))  # type: ignore[arg-type]  # a Content


def places(file: object) -> dict[str, int]:
    assert isinstance(file, TensorFile)
    return {name: tensor.data_ptr() for name, tensor in file.tensors.items()}


def test_what_changes_afterwards_is_not_in_it() -> None:
    weight = torch.ones(4)
    files = {"model": file_of(weight=weight)}
    before = content(files["model"])
    taken = Snapshot().take(files)
    weight.fill_(2.0)
    assert content(taken["model"]) == before
    assert content(files["model"]) != before


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 4), max_size=3)), max_size=5), st.booleans())
def test_its_bytes_are_those_of_the_tensors_whatever_they_are(
    kinds: list[tuple[torch.dtype, list[int]]], is_transposed: bool
) -> None:
    tensors = {str(index): torch.randint(0, 2, shape).to(dtype) for index, (dtype, shape) in enumerate(kinds)}
    if is_transposed:
        tensors = {name: tensor.mT if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}
    files = {"file": file_of(**tensors), "tree": b"{}"}
    taken = Snapshot().take(files)
    assert {name: content(file) for name, file in taken.items()} == {name: content(files[name]) for name in files}


def test_conjugated_and_negated_views_are_written_as_they_read() -> None:
    values = torch.tensor([1 + 2j, 3 - 4j])
    file = file_of(conjugated=values.conj(), negated=values.conj().imag)
    assert content(Snapshot().take({"file": file})["file"]) == content(file)


def test_its_memory_is_used_again_for_the_next_save() -> None:
    snapshot, weight, moments = Snapshot(), torch.ones(4), torch.ones(8)
    files = {"model": file_of(weight=weight), "optimizer": file_of(moments=moments)}
    first = {name: places(file) for name, file in snapshot.take(files).items()}
    only_weights = snapshot.take({"model": files["model"]})
    second = {name: places(file) for name, file in snapshot.take(files).items()}
    assert places(only_weights["model"]) == first["model"]
    assert second == first


@pytest.mark.parametrize("other", [torch.ones(5), torch.ones(4).double()])
def test_a_tensor_of_another_size_or_kind_gets_memory_of_its_own(other: Tensor) -> None:
    snapshot = Snapshot()
    snapshot.take({"model": file_of(weight=torch.ones(4))})
    file = file_of(weight=other)
    assert content(snapshot.take({"model": file})["model"]) == content(file)
