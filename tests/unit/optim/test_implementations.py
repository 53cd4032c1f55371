"""Every optimizer in the implementation that is chosen for it, against its loop over parameters."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional

from noether.config.base import component_of
from noether.config.discriminated import Discriminated
from noether.errors import NoetherError, SpecError, TrainingError
from noether.optim.build import build_optimizer
from noether.optim.kernels import with_implementation
from noether.optim.model_optimizer import ModelOptimizer
from noether.training.nonfinite import takes_found_inf

CONFIG: TypeAdapter[Any] = TypeAdapter(Annotated[Any, Discriminated("optimizer")])
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
KINDS = {
    "ASGD": {"lambd": 0.01},
    "Adadelta": {"rho": 0.8},
    "Adafactor": {"d": 2.0},
    "Adagrad": {"lr_decay": 0.1},
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True},
    "Adamax": {"eps": 1e-6},
    "Muon": {"momentum": 0.5},
    "NAdam": {"momentum_decay": 0.1},
    "RAdam": {"decoupled_weight_decay": True},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "Rprop": {"etas": [0.4, 1.3]},
    "SGD": {"momentum": 0.9, "nesterov": True},
    "SparseAdam": {"eps": 1e-6},
}
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # of torch's own sparse tensors
LAYOUTS = ["plain", "transposed", "column", "row", "twin", "expanded", "empty", "scalar", "sparse", "embedded"]


class Odd(nn.Module):
    """Parameters of the given layouts; those in a row, in columns and twins lie in one storage."""

    def __init__(self, layouts: list[str], dtype: torch.dtype, frozen: set[int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(len(layouts))
        self.storage = torch.randn(12, 12, generator=generator).to(dtype)
        for index, layout in enumerate(layouts):
            value = self._value(layout, index, torch.randn(4, 3, generator=generator).to(dtype))
            self.register_parameter(f"p{index}", nn.Parameter(value, requires_grad=index not in frozen))
        self.layouts = layouts

    def _value(self, layout: str, index: int, own: Tensor) -> Tensor:
        return {
            "plain": own,
            "sparse": own,
            "embedded": own,
            "transposed": own.T,
            "column": self.storage[:, index : index + 1],
            "row": self.storage[index],
            "twin": self.storage[11],
            "expanded": own[:1].expand(4, 3),
            "empty": own[:0],
            "scalar": own[0, 0],
        }[layout]

    def forward(self, update: int) -> Tensor:
        generator = torch.Generator().manual_seed(update)
        total = torch.zeros((), dtype=self.storage.real.dtype)
        for parameter, layout in zip(self.parameters(), self.layouts, strict=True):
            rows = torch.tensor([update % 4, 3, 3])
            seen: Tensor = parameter
            if layout in ("sparse", "embedded"):
                seen = functional.embedding(rows, parameter, sparse=layout == "sparse")
            total = total + (seen * torch.randn(seen.shape, generator=generator)).real.sum()
        return total


def build(module: nn.Module, kind: str, sparse: list[str], **options: Any) -> ModelOptimizer:
    config = CONFIG.validate_json(CONFIG.dump_json({"kind": kind, **options}))
    return build_optimizer(config, list(module.named_parameters()), total_updates=9, updates_per_epoch=3, sparse=sparse)


def trained(module: Odd, optimizer: ModelOptimizer, updates: int = 3) -> None:
    for update in range(updates):
        module(update).backward()
        if update == 0:
            optimizer.fit_to_gradients()
        optimizer.step()
        optimizer.zero_grad()


def trained_by_torch(module: Odd, optimizer: torch.optim.Optimizer, updates: int = 3) -> None:
    for update in range(updates):
        module(update).backward()
        optimizer.step()
        optimizer.zero_grad()


def has_frozen_alone(index: int, layouts: list[str], frozen: set[int]) -> bool:
    return index in frozen and layouts[index] != "twin" and {"row", "column"}.isdisjoint(layouts)


@settings(max_examples=250)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    has_option=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.1]),
    dtype=st.sampled_from([*FLOATS, torch.complex64]),
    layouts=st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=4),
    frozen=st.sets(st.integers(1, 3)),
    is_known=st.booleans(),
)
def test_the_chosen_implementation_does_what_the_loop_does(
    kind: str,
    has_option: bool,
    weight_decay: float,
    dtype: torch.dtype,
    layouts: list[str],
    frozen: set[int],
    is_known: bool,
) -> None:
    frozen |= {index for index, layout in enumerate(layouts) if layout == "expanded"}
    target = component_of(CONFIG.validate_python({"kind": kind})).target
    known = inspect.signature(target).parameters
    options = {"lr": 0.05, **(KINDS[kind] if has_option else {})}
    options |= {"weight_decay": weight_decay} if "weight_decay" in known else {}
    loop = {key: False for key in ("fused", "foreach") if key in known}
    sparse = [f"p{index}" for index, layout in enumerate(layouts) if layout == "sparse"]
    # torch's SGD cannot add sparse gradients of half types to its momentum, nor decay them: its loop has dense ones.
    dense = ["embedded" if kind == "SGD" and layout == "sparse" else layout for layout in layouts]
    chosen, plain = Odd(layouts, dtype, frozen), Odd(dense, dtype, frozen)
    before = [parameter.detach().clone() for parameter in plain.parameters()]
    try:
        trained_by_torch(
            plain, build(plain, kind, sparse if dense == layouts else [], **options, **loop).torch_optimizer
        )
    except (NoetherError, RuntimeError, ZeroDivisionError):  # Adafactor divides by the size of an empty parameter
        with pytest.raises((NoetherError, RuntimeError, ZeroDivisionError)):
            trained(chosen, build(chosen, kind, sparse if is_known else [], **options))
        return
    trained(chosen, build(chosen, kind, sparse if is_known else [], **options))
    few_bits = 4 * torch.finfo(dtype).eps  # sparse gradients of half types are added up in another order
    close = {"rtol": few_bits, "atol": few_bits} if dtype in (torch.float16, torch.bfloat16) else {}
    torch.testing.assert_close(list(chosen.parameters()), list(plain.parameters()), equal_nan=True, **close)
    torch.testing.assert_close(chosen.storage, plain.storage, equal_nan=True, **close)
    for index, (parameter, value) in enumerate(zip(chosen.parameters(), before, strict=True)):
        if has_frozen_alone(index, layouts, frozen):
            assert torch.equal(parameter, value)


def test_a_frozen_column_beside_a_trained_one_stays() -> None:
    model = Odd(["column", "column"], torch.float32, {1})
    before = model.p1.detach().clone()
    trained(model, build(model, "SGD", [], lr=0.1))
    assert torch.equal(model.p1, before)


# An implementation that the spec names


@pytest.mark.parametrize(
    ("layouts", "dtype", "name"),
    [
        (["plain", "transposed"], torch.float32, "p1"),
        (["plain", "column"], torch.float32, "p1"),
        (["plain"], torch.bfloat16, "p0"),
        (["plain"], torch.complex64, "p0"),
        (["sparse", "plain"], torch.float32, "p0"),
        (["twin", "twin"], torch.float32, "p1"),
    ],
)
def test_a_fused_kernel_that_does_not_suit_a_parameter_is_refused(
    layouts: list[str], dtype: torch.dtype, name: str
) -> None:
    sparse = ["p0"] if "sparse" in layouts else []
    with pytest.raises(SpecError) as caught:
        build(Odd(layouts, dtype, set()), "SGD", sparse, fused=True)
    assert f"'{name}'" in caught.value.message


def test_kernels_over_parameters_in_the_same_memory_are_refused() -> None:
    with pytest.raises(SpecError) as caught:
        build(Odd(["twin", "twin"], torch.float32, set()), "Adadelta", [], foreach=True)
    assert "'p0' and 'p1'" in caught.value.message


def test_parameters_in_the_same_memory_are_updated_one_after_the_other() -> None:
    for kind in ("SGD", "Adadelta"):
        (group,) = build(Odd(["twin", "twin"], torch.float32, set()), kind, []).torch_optimizer.param_groups
        assert group["foreach"] is False
        assert not group.get("fused")


def test_an_expanded_parameter_is_refused_by_its_name() -> None:
    with pytest.raises(SpecError) as caught:
        build(Odd(["plain", "expanded"], torch.float32, set()), "SGD", [])
    assert "'p1'" in caught.value.message


# Sparse gradients


@pytest.mark.parametrize("kind", ["AdamW", "SparseAdam"])
def test_an_optimizer_that_takes_only_the_other_kind_of_gradients_names_the_parameters(kind: str) -> None:
    model = Odd(["sparse", "plain"], torch.float32, set())
    with pytest.raises(TrainingError) as caught:
        trained(model, build(model, kind, ["p0"]))
    assert "sparse ones of p0 and dense ones of p1" in caught.value.message


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}], ids=str)
def test_sgd_does_with_sparse_gradients_what_it_does_with_dense_ones(options: dict[str, float]) -> None:
    sparse, dense = (Odd([layout], torch.float32, set()) for layout in ("sparse", "embedded"))
    optimizer = build(sparse, "SGD", [], lr=0.1, **options)
    trained(sparse, optimizer)
    trained_by_torch(dense, torch.optim.SGD(dense.parameters(), lr=0.1, **options))  # type: ignore[arg-type]
    torch.testing.assert_close(sparse.p0, dense.p0)
    assert all(tensor.layout is torch.strided for tensor in optimizer.state_tensors().values())


def test_a_kernel_that_sparse_gradients_end_is_given_up_before_its_mask_is_asked_for() -> None:
    model = Odd(["sparse"], torch.float32, set())
    optimizer = build(model, "SGD", [])
    assert takes_found_inf(optimizer.torch_optimizer)
    model(0).backward()
    optimizer.fit_to_gradients()
    assert not takes_found_inf(optimizer.torch_optimizer)


class Foreign(torch.optim.SGD):
    """An optimizer from elsewhere that has an option of this name."""

    def __init__(self, params: Any, lr: float = 0.1, fused: bool | None = None) -> None:
        super().__init__(params, lr)


def test_an_optimizer_from_elsewhere_gets_no_options_that_the_spec_does_not_name() -> None:
    weight = {"weight": nn.Parameter(torch.ones(2))}
    assert with_implementation(Foreign, {"lr": 0.1}, weight) == {"lr": 0.1}
    assert with_implementation(torch.optim.SGD, {"lr": 0.1}, weight) == {"lr": 0.1, "fused": True}


# Clipping


def clipped_by_hand(gradients: list[Tensor], max_norm: float) -> tuple[float, list[Tensor]]:
    dense = [gradient.to_dense().to(torch.complex128) for gradient in gradients]
    norm = sum(float(gradient.abs().square().sum()) for gradient in dense) ** 0.5
    return norm, [gradient * min(max_norm / (norm + 1e-6), 1.0) for gradient in dense]


@settings(max_examples=60)
@given(
    dtype=st.sampled_from([*FLOATS, torch.complex64]),
    layouts=st.lists(st.sampled_from([layout for layout in LAYOUTS if layout != "expanded"]), min_size=1, max_size=4),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_gradients_of_every_kind_are_clipped_by_their_norm(
    dtype: torch.dtype, layouts: list[str], scale: float
) -> None:
    assume(not (dtype.is_complex and {"sparse", "embedded"} & set(layouts)))  # torch embeds no complex numbers
    model = Odd(layouts, dtype, set())
    optimizer = build(model, "SGD", [], clip_grad_norm=2.0)
    (model(0) * scale).backward()
    norm, expected = clipped_by_hand([p.grad for p in model.parameters() if p.grad is not None], 2.0)
    optimizer.clip()
    tolerance = {"rtol": 1e-5 if dtype.itemsize >= 4 else 0.02, "atol": 1e-4}
    torch.testing.assert_close(optimizer.last_grad_norm.double(), torch.tensor(norm).double(), **tolerance)
    found = [p.grad.to_dense().to(torch.complex128) for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(found, expected, **tolerance)


def test_the_norm_of_large_gradients_in_half_precision_does_not_overflow() -> None:
    model = nn.Linear(64, 64, bias=False).half()
    optimizer = build(model, "SGD", [], clip_grad_norm=1.0)
    model.weight.grad = torch.full((64, 64), 4000.0, dtype=torch.float16)
    optimizer.clip()
    assert float(optimizer.last_grad_norm) == pytest.approx(64 * 4000)
    assert float(model.weight.grad.float().norm()) == pytest.approx(1.0, rel=1e-2)


def test_entries_of_sparse_gradients_are_clipped_as_their_sum() -> None:
    model = Odd(["sparse"], torch.float32, set())
    optimizer = build(model, "SGD", [], clip_grad_value=0.5)
    model(0).backward()
    expected = model.p0.grad.to_dense().clamp(-0.5, 0.5)
    optimizer.clip()
    assert torch.equal(model.p0.grad.to_dense(), expected)


def test_complex_entries_have_no_order_to_clip_by() -> None:
    with pytest.raises(SpecError) as caught:
        build(Odd(["plain", "scalar"], torch.complex64, set()), "SGD", [], clip_grad_value=0.5)
    assert "'p0'" in caught.value.message
