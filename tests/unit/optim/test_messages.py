"""The wording of the errors of optimizers, in one place; other tests look at types and facts."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import TypeAdapter
from torch import nn

from noether.config.components import ParameterGroupConfig
from noether.config.discriminated import Discriminated
from noether.optim.build import build_optimizer
from noether.optim.model_optimizer import ModelOptimizer

CONFIG: TypeAdapter[Any] = TypeAdapter(Annotated[Any, Discriminated("optimizer")])


def build(kind: str, *groups: dict[str, Any], frozen: bool = False, **settings: Any) -> ModelOptimizer:
    config = CONFIG.validate_python({"kind": kind, **settings})
    config.groups = [ParameterGroupConfig(**group) for group in groups]
    module = nn.Linear(2, 2).requires_grad_(not frozen)
    return build_optimizer(config, list(module.named_parameters()), total_updates=10, updates_per_epoch=5)


def restore(kind: str, **changes: Any) -> None:
    """Load the state of an optimizer into one over other parameters, or of another class."""
    saved = ModelOptimizer(torch.optim.Adam(nn.Linear(2, 2).parameters()), names=["weight", "bias"])
    for parameter in saved.torch_optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    saved.step()
    module = changes.get("module", nn.Linear(2, 2))
    names = changes.get("names", ["weight", "bias"])
    found = ModelOptimizer(getattr(torch.optim, kind)(module.parameters(), lr=0.1), names=names)
    found.load_state(saved.state_tensors(), saved.state_values())


def add_group(*parameters: nn.Parameter, kind: str = "SGD") -> None:
    """Add a group, by default of parameters that have one, as a callback may do."""
    optimizer = build(kind)
    optimizer.torch_optimizer.add_param_group({"params": parameters or optimizer.parameters})


def change_group() -> None:
    optimizer = build("SGD")
    optimizer.torch_optimizer.param_groups[0]["params"].pop()
    optimizer.state_values()


def number_as_key() -> None:
    optimizer = build("SGD")
    optimizer.torch_optimizer.state[0] = 1
    optimizer.state_values()


def test_messages(golden: Any) -> None:
    golden(
        {
            "nothing to train": lambda: build("SGD", frozen=True),
            "a schedule of an option that is missing": lambda: build(
                "Rprop", weight_decay_schedule={"kind": "constant"}
            ),
            "clipping with an optimizer that needs a closure": lambda: build("LBFGS", clip_grad_norm=1.0),
            "groups of an optimizer that has one": lambda: build("LBFGS", {"match": ["bias"], "lr_scale": 0.5}),
            "a group that is added with a stray parameter": lambda: add_group(nn.Parameter(torch.ones(1))),
            "a group that is added twice": lambda: add_group(),
            "a group of LBFGS": lambda: add_group(kind="LBFGS"),
            "a group that was changed by hand": change_group,
            "a number as key of the state": number_as_key,
            "a wrong option": lambda: build("AdamW", lr=-1.0),
            "a schedule without a length": lambda: build("SGD", schedule={"kind": "step"}),
            "a schedule with two lengths": lambda: build(
                "SGD", schedule={"kind": "step", "every_updates": 5, "every_epochs": 1}
            ),
            "a pattern that matches nothing": lambda: build("SGD", {"match": ["encoder.*"], "lr_scale": 0.1}),
            "a pattern that an earlier group covers": lambda: build(
                "SGD", {"match": ["*"], "lr_scale": 0.1}, {"match": ["bias"], "lr_scale": 0.2}
            ),
            "a weight decay that the optimizer lacks": lambda: build("Rprop", {"match": ["*"], "weight_decay": 0.1}),
            "a weight decay of biases": lambda: build("SGD", {"match": ["bias"], "weight_decay": 0.1}),
            "the state of another optimizer": lambda: restore("SGD"),
            "the state of other parameters": lambda: restore("Adam", names=["weight", "shift"]),
            "the state of another shape": lambda: restore("Adam", module=nn.Linear(3, 2)),
        }
    )
