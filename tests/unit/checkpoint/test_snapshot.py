"""A snapshot keeps the bytes of its moment, in memory that is reused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noether.checkpoint.durable import chunks_of
from noether.checkpoint.snapshot import SMALL, Snapshot
from noether.checkpoint.state import lay_out_state
from noether.checkpoint.tensor_file import TensorFile, lay_out_tensors
from noether.errors import TrainingError

Change = Callable[[dict[str, Tensor]], None]
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


# Layouts that are kept for the next save


def weights() -> dict[str, Tensor]:
    bias = torch.ones(4)
    return {"bias": bias, "net.weight": torch.arange(16.0).reshape(4, 4), "tied": bias, "step": torch.tensor(3.0)}


def replaced(name: str, by: Tensor) -> Change:
    return lambda state: state.update({name: by})


def moved(name: str, by: Callable[[Tensor], Tensor]) -> Change:
    """Give a tensor other memory or another look at it, and keep the object."""

    def change(state: dict[str, Tensor]) -> None:
        state[name].data = by(state[name].data)

    return change


CHANGES: dict[str, Change] = {
    "nothing": lambda state: None,
    "values": lambda state: torch._foreach_mul_([state["net.weight"]], 2),
    "a new tensor": replaced("late", torch.zeros(2)),
    "a tensor less": lambda state: state.pop("step") and None,
    "another name": lambda state: state.update(renamed=state.pop("step")),
    "another type": replaced("step", torch.tensor(3)),
    "another type in place": moved("net.weight", Tensor.double),
    "another size": replaced("step", torch.ones(2)),
    "another shape of the same memory": moved("net.weight", lambda weight: weight.view(2, 8)),
    "other strides of the same memory": moved("net.weight", Tensor.t),
    "other memory": moved("net.weight", lambda weight: weight.clone() + 1),
    "a tie that ends": moved("tied", lambda tied: tied.clone() + 1),
    "a tie that begins": lambda state: state.update(step=state["bias"]),
    "another look at tied memory": moved("tied", lambda tied: tied.view(2, 2)),
    "one that wants gradients": lambda state: state["step"].requires_grad_() and None,
    "a parameter": replaced("step", torch.nn.Parameter(torch.ones(()))),
    "pairs of numbers": replaced("step", torch.ones(3, dtype=torch.complex128)),
    "a value that is not a tensor": lambda state: state.update(extra={"a": 1}),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("saves", [1, 3], ids=["soon", "later"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_kept_layout_gives_the_file_of_a_new_one_after_a_change(change: Change, saves: int) -> None:
    snapshot, state = Snapshot(), weights()
    for _ in range(saves):
        snapshot.take({"model": snapshot.lay_out("model", state)[0]})
    change(state)
    for _ in range(3):
        (file, aliases), (wanted, wanted_aliases) = snapshot.lay_out("model", state), lay_out_state(state)
        assert aliases == wanted_aliases
        assert content(file) == content(wanted)
        assert content(snapshot.take({"model": file})["model"]) == content(wanted)


def test_a_layout_is_kept_as_long_as_nothing_changes() -> None:
    snapshot, state = Snapshot(), weights()
    first, _ = snapshot.lay_out("model", state)
    state["bias"] += 1
    assert snapshot.lay_out("model", state)[0] is first


def test_layouts_of_large_tensors_are_not_kept_because_they_would_keep_old_memory() -> None:
    snapshot, state = Snapshot(), {"weight": torch.ones(SMALL)}
    first, _ = snapshot.lay_out("model", state)
    assert snapshot.lay_out("model", state)[0] is not first


def test_a_sparse_tensor_in_place_of_a_dense_one_is_refused() -> None:
    snapshot, state = Snapshot(), weights()
    snapshot.lay_out("model", state)
    state["step"] = torch.eye(2).to_sparse()
    with pytest.raises(TrainingError, match="step"):
        snapshot.lay_out("model", state)
