"""The modules of a model: shapes, parameters and FLOPs of each, from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from noether.core.models.base import ModelBase, evaluating
from noether.core.models.build import AdaptedModule
from noether.core.models.recompute import keep_activations
from noether.data.randomness import preserved_rng
from noether.errors import NoetherError, SpecError, error_text
from noether.runs.prepare import Run
from noether.training.update import step_of


@dataclass(frozen=True, slots=True)
class PlannedModule:
    """One module of a model, or several siblings that are alike.

    Attributes:
        name: Name within the module that holds it; a range for several siblings, `0-11`.
        path: Its whole name, of the first one of several; empty for the model.
        depth: Number of modules that hold it.
        kind: Name of its class.
        inputs: Shapes of its inputs in its first call; empty if it was not called.
        outputs: Shapes of its outputs in its first call.
        calls: Number of its calls in a forward pass; 1 for a container whose modules are called.
        parameters: Numbers in its parameters, those of modules in it included; shared ones count where they come first.
        trainable: Those that are trained.
        shared: Numbers in parameters that came earlier in the model.
        flops: Floating point operations of all its calls, those of modules in it included.
        siblings: Number of modules that the row stands for; counts are those of one.
    """

    name: str
    path: str
    depth: int
    kind: str
    inputs: str
    outputs: str
    calls: int
    parameters: int
    trainable: int
    shared: int
    flops: int
    siblings: int = 1


@dataclass(slots=True)
class _Seen:
    """Calls of one module in the forward pass."""

    calls: int = 0
    inputs: str = ""
    outputs: str = ""
    flops: int = 0


def plan_model(run: Run) -> list[PlannedModule]:
    """Return the modules of the model of a rehearsal, in the order of their names, after a forward pass of one sample.

    Raises:
        SpecError: if the forward pass fails; the message names the module.
    """
    calls = _forward(run)
    return _together(list(_rows(run.model, calls)))


def _forward(run: Run) -> Mapping[nn.Module, _Seen]:
    """Call the model with the first sample as a batch, and watch its modules."""
    trainer, model = run.trainer, run.model
    batch = trainer.to_device(run.data.first_batch(1))
    keep_activations(model)  # a module that is recomputed computes once here
    watch = _Watch(FlopCounterMode(display=False))
    call = trainer.train_step if step_of(model) is not None else trainer.forward
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(watch.enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(watch.leave).remove)
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # its operation is not counted
        stack.enter_context(preserved_rng())
        stack.enter_context(evaluating(model))
        try:
            with torch.no_grad(), trainer.autocast(), watch.counter:
                call(batch, model)
        except Exception as error:
            text = error.message if isinstance(error, NoetherError) else error_text(error)
            raise SpecError(
                f"the forward pass of one sample failed in {watch.place(model)}: {text}; it was called with "
                f"{_shapes(watch.stack[-1][1] if watch.stack else batch)}",
                hint="compare the sizes of the model with those of a sample",
            ) from error
    return watch.seen


class _Watch:
    """Hooks that note shapes and FLOPs of each call.

    Args:
        counter: Counts FLOPs while it is entered.
    """

    def __init__(self, counter: FlopCounterMode) -> None:
        self.counter = counter
        self.seen: dict[nn.Module, _Seen] = {}
        self.stack: list[tuple[nn.Module, Any, int]] = []

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note the beginning of a call."""
        self.stack.append((module, [*args, *kwargs.values()], int(self.counter.get_total_flops())))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note the end of a call."""
        _, given, before = self.stack.pop()
        seen = self.seen.setdefault(module, _Seen(inputs=_shapes(given), outputs=_shapes(output)))
        seen.calls += 1
        seen.flops += int(self.counter.get_total_flops()) - before

    def place(self, model: ModelBase) -> str:
        """Name the module whose call is under way."""
        if not self.stack:
            return "the trainer"
        module = self.stack[-1][0]
        name = next((name for name, one in _named(model) if one is module), "")
        return f"'{name}' ({type(module).__name__})" if name else f"the model ({type(module).__name__})"


def _shapes(value: Any) -> str:
    """Return the shapes of the tensors in a value: `2x3`, several separated by commas."""
    return ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "to_tuple"):  # outputs of transformers
        yield from _tensors(value.to_tuple())


def _named(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules under every one of their names, as parameters are named: without adapters."""
    if isinstance(module, AdaptedModule):
        module = module.module
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _named(child, f"{path}.{name}" if path else name)


def _rows(model: ModelBase, calls: Mapping[nn.Module, _Seen]) -> Iterator[PlannedModule]:
    """Yield a row for each module, also for one that stands under a second name."""
    owners: dict[int, str] = {}
    names = dict(_named(model))
    for path, module in names.items():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), path)
    for path, module in names.items():
        own = [one for one in module.parameters() if _is_below(owners[id(one)], path)]
        others = [one for one in module.parameters() if not _is_below(owners[id(one)], path)]
        seen = calls.get(module) or _Seen(any(one in calls for one in module.modules()), flops=_flops(module, calls))
        yield PlannedModule(
            name=path.rpartition(".")[2],
            path=path,
            depth=path.count(".") + 1 if path else 0,
            kind=type(module).__name__,
            inputs=seen.inputs,
            outputs=seen.outputs,
            calls=int(seen.calls),
            parameters=sum(one.numel() for one in own),
            trainable=sum(one.numel() for one in own if one.requires_grad),
            shared=sum(one.numel() for one in others),
            flops=seen.flops,
        )


def _flops(module: nn.Module, calls: Mapping[nn.Module, _Seen]) -> int:
    return calls[module].flops if module in calls else sum(_flops(child, calls) for child in module.children())


def _is_below(owner: str, path: str) -> bool:
    return not path or owner == path or owner.startswith(f"{path}.")


def _together(rows: Sequence[PlannedModule]) -> list[PlannedModule]:
    """Put numbered siblings that follow each other and are alike, with all below them, into one row each."""
    trees = _trees(rows)
    shown: list[PlannedModule] = []
    index = 0
    while index < len(trees):
        first, end = trees[index], index + 1
        while first[0].name.isdigit() and end < len(trees) and _are_alike(first, trees[end]):
            end += 1
        head = first[0]
        if end - index > 1:
            head = replace(head, name=f"{head.name}-{trees[end - 1][0].name}", siblings=end - index)
        shown += [head, *_together(first[1:])]
        index = end
    return shown


def _trees(rows: Sequence[PlannedModule]) -> list[list[PlannedModule]]:
    """Cut rows before each one of the least depth: a module with all modules in it."""
    trees: list[list[PlannedModule]] = []
    for row in rows:
        if not trees or row.depth <= trees[-1][0].depth:
            trees.append([])
        trees[-1].append(row)
    return trees


def _are_alike(one: Sequence[PlannedModule], other: Sequence[PlannedModule]) -> bool:
    if len(one) != len(other) or not other[0].name.isdigit():
        return False
    return all(
        replace(left, path="", name="") == replace(right, path="", name="") and (not place or left.name == right.name)
        for place, (left, right) in enumerate(zip(one, other, strict=True))
    )
