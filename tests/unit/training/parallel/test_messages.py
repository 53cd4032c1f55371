"""The wording of the errors of ranks, in one place; other tests look at types and facts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter

from noether.core.models.recompute import recompute
from noether.training.parallel import Single, joined
from noether.training.parallel.gradients import FlatGradients, UpdateOfRanks
from noether.training.parallel.one import Place
from noether.training.parallel.sharded import shard

WHOLE = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


class Two(Single):
    """The first of two ranks, of which the second has other losses."""

    world = 2

    def gather(self, value: Any) -> list[Any]:
        return [value, ("total", "other")]


def test_messages(golden: Any) -> None:
    golden(
        {
            "a launch of which nothing else is known": lambda: Place.of({"WORLD_SIZE": "2"}),
            "a launch without a port": lambda: Place.of({**WHOLE, "MASTER_PORT": " "}),
            "a world that is no number": lambda: Place.of({**WHOLE, "WORLD_SIZE": "many"}),
            "a world of no rank": lambda: Place.of({**WHOLE, "WORLD_SIZE": "0"}),
            "a rank above the others": lambda: Place.of({**WHOLE, "RANK": "2"}),
            "more ranks here than in all": lambda: Place.of({**WHOLE, "LOCAL_WORLD_SIZE": "3"}),
            "a port that is none": lambda: join({**WHOLE, "MASTER_PORT": "1234567"}),
            "more ranks than torch can count": lambda: join({**WHOLE, "WORLD_SIZE": "9" * 20}),
            "a time limit that torch cannot hold": lambda: join({**WHOLE, "NOETHER_RANK_TIMEOUT_S": "1e30"}),
            "a time limit that is none": lambda: join({**WHOLE, "NOETHER_RANK_TIMEOUT_S": "soon"}),
            "losses of other names on another rank": lambda: losses(("total", "y")),
            "losses of other names than before": lambda: losses(("total", "other"), ("total", "y")),
            "a sparse gradient": sparse,
            "another parameter without a gradient": changed,
            "a pattern of no module": _sharding(shard=["layers.*"]),
            "tied parameters in two units": _sharding(tied=True, shard=["blocks.*"]),
            "a unit within a recomputed module": _sharding(recomputed="blocks", shard=["blocks.0"]),
            "a sharded model with a scaler": _sharding(precision="fp16"),
            "a sharded model that is compiled": _sharding(use_torch_compile=True),
            "a sharded model with a train step": _sharding(train_step=print),
        }
    )


def test_a_whole_launch_is_understood() -> None:
    place = Place.of({**WHOLE, "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert place is not None
    assert (place.rank, place.world, place.local_rank, place.local_world) == (1, 2, 1, 2)
    assert (place.host, place.port, place.attempt, place.has_store) == ("localhost", 29500, 2, True)
    assert Place.of({}) is Place.of({"WORLD_SIZE": "1", "RANK": "0"}) is None


def join(environment: dict[str, str]) -> None:
    with joined(environment):
        pass


def losses(*names: tuple[str, ...]) -> None:
    update = object.__new__(UpdateOfRanks)
    update.parallel, update._names = Two(), None
    for each in names:
        update._require_same(each)


def sparse() -> None:
    layer = nn.Embedding(3, 2, sparse=True)
    torch.autograd.backward(layer(torch.tensor([1])).sum())
    FlatGradients(Single(), list(layer.named_parameters()), reads=False)(torch.tensor(0.0))


def changed() -> None:
    """On an accelerator, which is not asked which parameters have gradients; here a CPU stands for it."""
    parameters = {name: Parameter(torch.zeros(1)) for name in ("model.a", "model.b")}
    exchange = FlatGradients(Single(), list(parameters.items()), reads=False)
    exchange._reads = False
    for present in (("model.a", "model.b"), ("model.b",)):
        for name, parameter in parameters.items():
            parameter.grad = torch.ones(1) if name in present else None
        exchange(torch.tensor(0.0))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def _sharding(
    *, tied: bool = False, recomputed: str | None = None, train_step: Any = None, **settings: Any
) -> Callable[[], nn.Module]:
    model = Blocks()
    if tied:
        model.first.weight = model.blocks[0].weight
    if recomputed is not None:
        recompute(model.get_submodule(recomputed), recomputed)
    if train_step is not None:
        vars(model)["train_step"] = train_step
    config = SimpleNamespace(**{"shard": None, "precision": "fp32", "use_torch_compile": False, **settings})
    return partial(shard, model, config, Two(), torch.device("cpu"))
