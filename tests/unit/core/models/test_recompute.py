"""Recomputed modules: fewer bytes are kept for the backward pass, and nothing else differs."""

from __future__ import annotations

import copy
import inspect
import pickle
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from noether.core.models import recompute as recompute_module
from noether.core.models.recompute import keep_activations, recompute, recomputed
from noether.errors import TrainingError

GUIDE = Path(__file__).parents[4] / "docs" / "how-to" / "make-updates-faster.md"


class Block(nn.Module):
    """An attention block: keywords, a tuple and a dict go in, a dict with None comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        self.norm, self.dropout = nn.LayerNorm(8), nn.Dropout(0.3)
        self.wide = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8))

    def forward(self, x: Tensor, *, masks: dict[str, Tensor | None], scales: tuple[Tensor, float]) -> dict[str, Any]:
        mixed, _ = self.attention(x, x, x, attn_mask=masks["attention"], need_weights=False)
        x = self.norm(x + self.dropout(mixed))
        return {"x": (x + self.wide(x)) * scales[0] * scales[1], "cache": None}


class Transformer(nn.Module):
    """Blocks, the last of which is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in [*self.blocks, self.blocks[-1]]:
            x = block(x, masks={"attention": None}, scales=(torch.ones(8), 0.5))["x"]
        return x


class Stateful(nn.Module):
    """Batch norm, spectral norm, random numbers of three generators, and a counter that its forward pass reads."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, momentum=None), nn.Dropout(), nn.Linear(16, 8))
        self.bounded = spectral_norm(nn.Linear(8, 8))
        self.register_buffer("mean", torch.zeros(8))
        self.calls, self.last = 0, torch.zeros(8)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if random.random() < 0.5:
            x = x * float(np.random.rand())
        x = self.norms(self.bounded(x)) + self.mean * self.calls + self.last
        self.mean.lerp_(x.detach().mean(0), 0.1)
        self.last = x.detach().mean(0)
        return x


def three(kind: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(kind() for _ in range(3)))


def made(make: Callable[[], nn.Module], *names: str) -> nn.Module:
    torch.manual_seed(1)
    model = make()
    for name in names:
        recompute(model.get_submodule(name), name)
    return model


def trained(model: nn.Module, shape: tuple[int, ...] = (6, 8), updates: int = 3, **autocast: Any) -> list[Any]:
    """Train a model; return all that it leaves behind."""
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    optimizer, left = torch.optim.SGD(model.parameters(), lr=0.1), []
    for _ in range(updates):
        x = torch.randn(shape).requires_grad_()
        with torch.autocast("cpu", enabled=False) if not autocast else torch.autocast("cpu", **autocast):
            loss = model(x).square().mean()
        loss.backward()
        left += [loss.detach(), x.grad]
        optimizer.step()
        optimizer.zero_grad()
    left += model.state_dict().values()
    left += [torch.get_rng_state(), torch.tensor([random.random(), np.random.rand()])]
    return [*left, *(getattr(module, "calls", None) for module in model.modules())]


def is_equal(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(one, other) if isinstance(one, Tensor) else one == other
        for one, other in zip(left, right, strict=True)
    )


BLOCKS = ("blocks.0", "blocks.1", "blocks.2")
SEQUENCE = (4, 5, 8)


def test_blocks_with_any_arguments_and_results_train_bit_for_bit_the_same() -> None:
    plain, again = made(Transformer), made(Transformer, *BLOCKS)
    assert is_equal(trained(plain, SEQUENCE), trained(again, SEQUENCE))
    assert list(plain.state_dict()) == list(again.state_dict())
    assert recomputed(again) == list(BLOCKS)


def test_it_is_the_same_in_bf16() -> None:
    settings = {"dtype": torch.bfloat16}
    assert is_equal(
        trained(made(Transformer), SEQUENCE, **settings), trained(made(Transformer, *BLOCKS), SEQUENCE, **settings)
    )


def test_statistics_counters_and_generators_advance_once() -> None:
    plain, again = made(three(Stateful)), made(three(Stateful), "0", "1", "2")
    assert is_equal(trained(plain), trained(again))


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the bytes that autograd keeps of a forward pass, but for parameters and the input."""
    places = {tensor.untyped_storage().data_ptr() for tensor in (x, *model.parameters())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in places:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = model(x)
    del kept
    return sum(found.values())


def wide() -> nn.Module:
    layers = (nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 8)) for _ in range(4))
    return nn.Sequential(*layers)


def test_only_the_inputs_of_recomputed_modules_are_kept() -> None:
    x = torch.randn(32, 8)
    of_an_input = x.nbytes
    assert saved_bytes(made(wide, "0", "1", "2", "3"), x) == 3 * of_an_input  # the first one is the batch
    assert saved_bytes(made(wide), x) > 60 * of_an_input
    assert saved_bytes(made(wide, "0", "1"), x) < saved_bytes(made(wide, "0"), x) < saved_bytes(made(wide), x)


def test_the_figures_of_the_guide_are_right() -> None:
    def layers() -> nn.Module:
        return nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Dropout(0.1), nn.Linear(1024, 256))

    blocks, x = [str(place) for place in range(8)], torch.randn(1024, 256)
    plain, again = (made(lambda: nn.Sequential(*(layers() for _ in blocks)), *names) for names in ((), blocks))
    text = GUIDE.read_text()
    for model, row in ((plain, "| without |"), (again, '| `checkpoint = ["blocks.*"]` |')):
        assert f"{row} {saved_bytes(model, x) / 2**20:g} MiB |" in text


def test_nothing_is_recomputed_in_evaluation_mode_or_without_gradients() -> None:
    model, x = made(wide, "0").eval(), torch.randn(4, 8)
    assert saved_bytes(model, x) == saved_bytes(made(wide).eval(), x)
    with torch.no_grad():
        assert not model.train()(x).requires_grad


def test_gradients_of_gradients_are_the_same() -> None:
    def penalty(model: nn.Module) -> list[Any]:
        torch.manual_seed(3)
        x = torch.randn(4, 8, requires_grad=True)
        y = model(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (y.mean() + slope.square().sum()).backward()
        return [x.grad, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]

    assert is_equal(penalty(made(wide)), penalty(made(wide, "0", "1", "2")))


def test_a_graph_that_is_kept_is_recomputed_again() -> None:
    model = made(three(Stateful), "0", "1", "2")
    x = torch.randn(6, 8, requires_grad=True)
    loss = model(x).sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(loss, x)[0])


def test_weights_of_a_functional_call_are_those_that_are_recomputed() -> None:
    def slopes(model: nn.Module) -> list[Any]:
        torch.manual_seed(3)
        x, weights = torch.randn(4, 8), {name: p * 2 for name, p in model.named_parameters()}
        torch.func.functional_call(model, weights, (x,)).square().mean().backward()
        return [parameter.grad for parameter in model.parameters()]

    assert is_equal(slopes(made(wide)), slopes(made(wide, "0", "1", "2", "3")))


def test_a_copy_recomputes_itself_and_leaves_the_original_alone() -> None:
    original = made(three(Stateful), "0", "1")
    before = copy.deepcopy(original.state_dict())
    again = copy.deepcopy(original)
    assert is_equal(trained(again), trained(made(three(Stateful))))
    assert is_equal([*original.state_dict().values()], [*before.values()])
    assert recomputed(again) == ["0", "1"]


def test_a_pickled_model_recomputes_as_before() -> None:
    again = pickle.loads(pickle.dumps(made(Transformer, *BLOCKS)))
    assert is_equal(trained(again, SEQUENCE), trained(made(Transformer), SEQUENCE))
    assert recomputed(again) == list(BLOCKS)


def test_hooks_on_a_recomputed_module_are_called_once_and_see_its_results() -> None:
    model, seen = made(wide, "1"), []
    model[1].register_forward_hook(lambda _, __, y: seen.append(y.shape))
    model[1].register_full_backward_hook(lambda _, __, gradients: seen.append(gradients[0].shape))
    model(torch.randn(4, 8)).sum().backward()
    assert seen == [(4, 8), (4, 8)]


def test_a_forward_of_the_instance_is_kept_and_comes_back() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].forward = own = lambda x: x * 2
    recompute(model[0], "0")
    assert torch.equal(model(torch.ones(8)), torch.full((8,), 2.0))
    keep_activations(model)
    assert model[0].forward is own
    assert recomputed(model) == []


def test_the_signature_is_that_of_the_module() -> None:
    model = made(Transformer, "blocks.0")
    assert list(inspect.signature(model.blocks[0].forward).parameters) == ["x", "masks", "scales"]


class Remembers(nn.Module):
    """Keeps an activation that the loss does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.kept = {"wide": self.linear(x).sin().exp()}
        return self.linear(x)


def test_attributes_of_former_forward_passes_do_not_pile_up() -> None:
    model, seen = made(three(Remembers), "1"), []
    for _ in range(3):
        trained(model, updates=1)
        seen.append(weakref.ref(model[1].kept["wide"]))
    assert [one() is None for one in seen] == [True, True, False]


class Late(nn.Module):
    """Changes a large buffer in its second forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(8)), 0
        self.register_buffer("table", torch.zeros(1 << 15))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            self.table.add_(1)
        return x * self.weight


def of_transform(model: nn.Module) -> None:
    torch.func.grad(lambda x: model(x).sum())(torch.randn(4, 8))


def of_updates(model: nn.Module) -> None:
    trained(model)


@pytest.mark.parametrize(
    ("layer", "use", "found"),
    [
        (lambda: nn.ReLU(inplace=True), of_updates, "changes its input in place"),
        (Late, of_updates, "'table'"),
        (nn.GELU, of_transform, "torch.func"),
    ],
)
def test_what_cannot_be_repeated_is_refused_and_named(layer: Any, use: Any, found: str) -> None:
    model = made(lambda: nn.Sequential(nn.Linear(8, 8), layer()), "1")
    with pytest.raises(TrainingError, match=f"module '1'.*{found}"):
        use(model)


def test_large_tables_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU()), "1")
    model[1].register_buffer("table", torch.zeros(1 << 15))
    model[1].register_buffer("graph", torch.eye(1 << 8).to_sparse())
    model(torch.randn(4, 8))
    for buffer in model[1].buffers():
        monkeypatch.setattr(buffer, "detach", None)  # a copy would call it
    model(torch.randn(4, 8)).sum().backward()


@pytest.mark.parametrize("layer", [nn.GELU, nn.Dropout])
def test_a_capture_repeats_a_module_only_if_it_draws_no_numbers_of_the_device(
    monkeypatch: pytest.MonkeyPatch, layer: Any
) -> None:
    """The generator of the CPU stands in for that of the device."""
    monkeypatch.setattr(recompute_module, "_device_states", lambda: [torch.get_rng_state()])
    model, is_capturing = made(lambda: nn.Sequential(nn.Linear(8, 8), layer()), "1"), True
    monkeypatch.setattr(recompute_module, "_is_capturing", lambda: is_capturing)
    with pytest.raises(TrainingError):  # nothing is known before the first forward pass
        trained(model)
    is_capturing = False
    trained(model)
    is_capturing = True
    if layer is nn.GELU:
        trained(model)
    else:
        with pytest.raises(TrainingError, match="random numbers"):
            trained(model)


@pytest.mark.timeout(300)
def test_torch_compile_draws_the_same_random_numbers_again_and_counts_statistics_once() -> None:
    def layers() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout())

    plain, again = made(three(layers)), made(three(layers), "0", "1", "2")
    trained(plain)
    trained(torch.compile(again, backend="aot_eager"))
    torch.testing.assert_close(again.state_dict(), plain.state_dict())
