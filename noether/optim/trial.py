"""Trial of an optimizer on copies of a few parameters: finds if it takes a closure, and the shape of its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from noether.optim.model_optimizer import ModelOptimizer
from noether.optim.optimizer_state import Options, Traits, changed_options, copied, requires_closure

Groups = list[dict[str, Any]]
_PLAIN = (bool, int, float, str, NoneType)


def traits_of(
    optimizer: Optimizer,
    build: Callable[[Groups], Optimizer],
    implementation: Callable[[Mapping[str, nn.Parameter]], Options],
) -> Traits:
    """Return the needs of an optimizer that is not of torch: it makes an optimizer step on copies.

    Some optimizers (SAM for example) have a closure with a default of None, and cannot do without it: they are found
    by an optimizer step that fails without a closure and succeeds with one.

    Args:
        optimizer: The optimizer.
        build: Build another one over other groups.
        implementation: Return the options that choose torch's kernels for some parameters.
    """
    takes_closure = requires_closure(optimizer)
    for with_closure in (True,) if takes_closure else (False, True):
        if (tried := _trial(optimizer, build, with_closure=with_closure)) is not None:
            state, attributes = tried
            return Traits(with_closure, state, attributes, implementation)
    return Traits(takes_closure, implementation=implementation)


def _trial(
    optimizer: Optimizer, build: Callable[[Groups], Optimizer], *, with_closure: bool
) -> tuple[Mapping[str, Any], tuple[str, ...]] | None:
    """Return the plain state after one optimizer step with gradients of ones, and changed attributes; None if it fails.

    Each group is represented by one parameter of each number of dimensions, and the random generator is put back.
    """
    groups = [_sampled(group) for group in optimizer.param_groups]
    parameters = [parameter for group in groups for parameter in group["params"]]

    def closure() -> Any:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        return torch.ones((), device=parameters[0].device)

    with torch.random.fork_rng(devices=[]):
        try:
            copy = ModelOptimizer(build(groups), names=[str(place) for place in range(len(parameters))])
            copy.begin_training()
            before = _attributes(copy.torch_optimizer)
            with torch.no_grad():
                closure()
            copy.torch_optimizer.step(closure) if with_closure else copy.torch_optimizer.step()
        except Exception:  # it may refuse such gradients; the first update tells more
            return None
    after = _attributes(copy.torch_optimizer)
    changed = () if _has_own_state_dict(optimizer) else tuple(changed_options(after, before))
    return {**copy.state_values(), "attributes": {name: after[name] for name in changed}}, changed


def _attributes(optimizer: Optimizer) -> dict[str, Any]:
    """Return copies of the attributes that a subclass has, but for those of torch and other objects."""
    own = {name: value for name, value in vars(optimizer).items() if not name.startswith("_")}
    kept = {name: value for name, value in own.items() if name not in ("defaults", "state", "param_groups")}
    return {name: copied(value) for name, value in kept.items() if _is_plain(value) or type(value) is torch.Tensor}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)


def _has_own_state_dict(optimizer: Optimizer) -> bool:
    return type(optimizer).state_dict is not Optimizer.state_dict


def _sampled(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with copies of its first parameter of each number of dimensions."""
    by_ndim = {parameter.ndim: parameter for parameter in reversed(group["params"])}
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in by_ndim.values()]
    return {**group, "params": copies}
