"""One accumulation step, with or without the optimizer step, as one graph of Inductor."""

from __future__ import annotations

import itertools
import math
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noether.core.models.base import ModelBase
from noether.data.randomness import preserved_rng, rng_snapshot
from noether.optim.functional import FunctionalStep
from noether.training.another_form import UnfitError
from noether.training.graph_layout import Recorded, Unguarded, changed_by, is_settled, unguarded
from noether.training.rehearsal import Attributes
from noether.training.trainers.types import TrainerResult, check_parts, detached

CHANGED = "something that the graph has read from model, loss or optimizer has changed"
_CONTEXT = "Developer debug context:"
_SHOWN = 160  # characters of the error of a compiler
_set_grad_enabled = torch._C._set_grad_enabled

# numpy's generator would be replaced by torch's, and hooks that are added later would not be noticed.
_TRACING = {"trace_numpy": False, "skip_nnmodule_hook_guards": False}

# Random numbers are those of the eager kernels, drawn in the same order.
_COMPILING = {"fallback_random": True}


class _TracedError(Exception):
    """A function was traced, and is not to be run."""


def _stop(*_: Any) -> Any:
    raise _TracedError


def _entries(code: types.CodeType) -> list[Any]:
    """Return the code that dynamo has made, with its guards; nothing if this version of torch does not show it."""
    find = getattr(torch._dynamo.eval_frame, "_debug_get_cache_entry_list", None)
    return [] if find is None else list(find(code))


def _to_compile(
    function: Callable[..., Any], backend: Callable[..., Any], guarded_by: Callable[[Sequence[Any]], list[bool]]
) -> tuple[types.CodeType, Callable[..., Any]]:
    """Return a function to compile and its code: dynamo keeps graphs by code object, and few for each."""
    code = function.__code__.replace()
    copy = types.FunctionType(code, function.__globals__, function.__name__)
    options: Any = {"guard_filter_fn": guarded_by}
    return code, torch.compile(copy, backend=backend, fullgraph=True, dynamic=False, options=options)


class _Forward(nn.Module):
    """Forward pass and loss as a module, so that parameters and buffers can be its arguments."""

    def __init__(self, train_step: Callable[[Any, nn.Module], Any], model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train_step = train_step

    def forward(self, batch: dict[str, Tensor]) -> TrainerResult:
        """Return the result of a batch."""
        result = self.train_step(batch, self.model)
        return result if type(result) is TrainerResult else TrainerResult.of(result)


class CompiledStep:
    """One accumulation step as a graph, which is made at its first call.

    Guards look at everything that the graph has read, which takes longer than a small graph itself. So the second call
    in a row is remembered, and further ones do without guards, until `look_again` says that hooks have run. That takes
    a graph that has read nothing but parameters, modules, settings and the like, and that leaves nothing but tensors.

    Args:
        train_step: Forward pass and loss of one batch.
        model: The model.
        optimizers: Optimizer steps of its optimizers.
        is_first: True for the first accumulation step of an update, which begins the sums of the gradients.
        is_last: True for the last one, which applies them.
        count: Accumulation steps of an update.
    """

    def __init__(
        self,
        train_step: Callable[[Any, nn.Module], Any],
        model: ModelBase,
        optimizers: Sequence[FunctionalStep],
        *,
        is_first: bool,
        is_last: bool,
        count: int,
    ) -> None:
        self.forward = _Forward(train_step, model)
        self.optimizers, self.count = list(optimizers), count
        self.is_first, self.is_last = is_first, is_last
        self.parameters = [parameter for optimizer in self.optimizers for parameter in optimizer.parameters]
        places = {id(parameter): name for name, parameter in self.forward.named_parameters()}
        self.names = [places[id(parameter)] for parameter in self.parameters]
        self.buffers: dict[str, Tensor] = {}
        self._arguments: tuple[Any, ...] = ()
        self._is_made = False
        self._recorded: Recorded | None = None
        self._unguarded: Unguarded | None = None
        self._is_settled, self._calls = False, 0  # calls since hooks have run
        self._code, self._compiled = _to_compile(_step, self._recording, self._guarded_by)

    def look_at(self, batch: dict[str, Tensor]) -> None:
        """Run forward and backward pass eagerly once, then put back random numbers and buffers.

        Attributes are put back as well if it is not one that a graph repeats.

        Raises:
            UnfitError: if something was found that a graph would not compute as an eager update does.
            TrainingError: if the parts of the loss are not what they say.
        """
        batch = {name: tensor.clone() for name, tensor in batch.items()}  # it may be changed in place
        attributes = Attributes((self.forward, getattr(self.forward.train_step, "__self__", None)))
        try:
            self._look_at(batch)
            self._require_repeatable(batch)
        except Exception:
            attributes.put_back()
            raise

    def _look_at(self, batch: dict[str, Tensor]) -> None:
        kept = {name: (buffer, buffer._version, buffer.clone()) for name, buffer in self.forward.named_buffers()}
        with preserved_rng():
            try:
                with torch.enable_grad():
                    result = self.forward(batch)
                    gradients = torch.autograd.grad(result.total_loss, self.parameters, allow_unused=True)
            except Exception as error:  # the eager update that follows raises it again
                raise UnfitError(f"the first one failed: {type(error).__name__}") from error
            finally:
                replaced = self._put_back(kept)
        if replaced:
            raise UnfitError(f"the forward pass replaces the buffer '{_own_name(replaced[0])}'")
        check_parts(result)
        _require_plain(result, dict(zip(self.names, gradients, strict=True)))

    def _require_repeatable(self, batch: dict[str, Tensor]) -> None:
        """Trace the forward pass, which does not run it.

        Raises:
            UnfitError: if it cannot be traced, or changes objects of Python that it reads.
        """
        read: list[str] = []

        def guarded_by(guards: Sequence[Any]) -> list[bool]:
            read.extend(guard.name for guard in guards)
            return [True] * len(guards)

        trace = _to_compile(_forward, lambda *_: _stop, guarded_by)
        values = dict([*self.forward.named_parameters(), *self.forward.named_buffers()])
        try:
            with torch._dynamo.config.patch(_TRACING), torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of what it uses itself
                trace[1](self, batch, list(values), list(values.values()))
        except _TracedError:
            for entry in _entries(trace[0]):
                if (changed := changed_by(entry.code, read)) is not None:
                    raise UnfitError(f"the forward pass changes {changed}") from None
        except Exception as error:
            raise UnfitError(_shortened(error)) from error

    def _put_back(self, kept: Mapping[str, tuple[Tensor, int, Tensor]]) -> list[str]:
        """Put buffers back, and remember those that changed in place; return the names of others."""
        replaced = []
        for prefix, module in self.forward.named_modules():
            for name in list(module._buffers):
                key = f"{prefix}.{name}"
                if key in kept and module._buffers[name] is not kept[key][0]:
                    module._buffers[name] = kept[key][0]
                    replaced.append(key)
                elif key not in kept and module._buffers[name] is not None:
                    replaced.append(key)
        for name, (buffer, version, copy) in kept.items():
            if buffer._version != version or not torch.equal(buffer, copy):
                self.buffers[name] = buffer
                buffer.copy_(copy)
        return replaced

    def __call__(self, batch: dict[str, Tensor], gradients: list[Tensor] | None, earlier: Tensor | None) -> Any:
        """Run the graph.

        Args:
            batch: Tensors by name.
            gradients: Sums of the gradients so far, which it adds to; None in the first accumulation step.
            earlier: Losses of the accumulation steps so far; None in the first one.

        Returns:
            The losses by name; the outputs; a number that is not finite if the update was not applied; the norm of the
            gradients of each optimizer; and in a first accumulation step that is not the last the gradients.

        Raises:
            UnfitError: if the graph cannot be made, or does not hold any more; nothing was changed then.
        """
        fresh = [*batch.values(), *(gradients or ()), *(() if earlier is None else (earlier,))]
        were_enabled = torch.is_grad_enabled()
        _set_grad_enabled(False)
        try:
            if self._unguarded is not None and (result := self._unguarded(fresh)) is not None:
                return result
            states = [optimizer.states() for optimizer in self.optimizers]
            given = [optimizer.given for optimizer in self.optimizers]
            buffers = list(self.buffers.values())
            self._arguments = (self, self.parameters, states, buffers, given, batch, gradients, earlier)
            result = self._compiled(*self._arguments) if self._is_made else self._first_call()
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UnfitError(CHANGED) from error
        finally:
            _set_grad_enabled(were_enabled)
        self._calls += 1
        if self._recorded is not None:
            if self._is_settled and self._calls > 1:
                of_model = (*self.forward.parameters(), *self.forward.buffers())
                lasting = (*of_model, *itertools.chain(*states), *given)
                self._unguarded = unguarded(self._recorded, fresh, lasting, result)
            self._recorded.forget()
        return result

    def look_again(self) -> None:
        """Let guards look at what the graph has read before it is used again: hooks may have changed it."""
        self._unguarded, self._calls = None, 0

    def _first_call(self) -> Any:
        """Make the graph and run it."""
        put_back = rng_snapshot()
        try:
            with torch._dynamo.config.patch(_TRACING), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of what it uses itself
                result = self._compiled(*self._arguments)
        except Exception as error:
            put_back()
            raise UnfitError(_shortened(error)) from error
        entries = _entries(self._code)
        self._is_settled = self._is_settled and bool(entries) and all(changed_by(one.code) is None for one in entries)
        return result

    def _recording(self, graph: Any, inputs: list[Tensor]) -> Any:
        self._recorded = Recorded(self._backend(graph, inputs))
        return self._recorded

    def _backend(self, graph: Any, inputs: list[Tensor]) -> Any:
        """Compile what was traced; being called again means that a guard has failed."""
        if self._is_made:
            raise UnfitError(CHANGED)
        from torch._inductor.compile_fx import compile_fx

        compiled = compile_fx(graph, inputs, config_patches=_COMPILING)
        self._is_made = True
        return compiled

    def is_valid(self) -> bool:
        """Return True if everything that the graph has read is as it was, so that it may be used again."""
        if not self._is_made:
            return True
        values = dict(zip(self._code.co_varnames, self._arguments, strict=False))
        entries = _entries(self._code)
        with torch.no_grad():
            return not entries or any(entry.guard_manager.check(values) for entry in entries)

    def _guarded_by(self, guards: Sequence[Any]) -> list[bool]:
        """Look at what a graph has read; all guards are kept."""
        owners = [self, *self.optimizers, getattr(self.forward.train_step, "__self__", None)]
        self._is_settled = all(is_settled(guard.value, owners) for guard in guards if guard.has_value)
        return [True] * len(guards)


def _forward(graph: CompiledStep, batch: dict[str, Tensor], names: list[str], tensors: list[Tensor]) -> Any:
    """Run the forward pass; this function is traced, and not run."""
    return _parts(torch.func.functional_call(graph.forward, dict(zip(names, tensors, strict=True)), (batch,)))


def _parts(result: TrainerResult) -> tuple[dict[str, Tensor], Any]:
    losses = {"total": result.total_loss.detach()}
    for name, part in (result.losses_to_log or {}).items():
        losses[name] = part.detach()
    return losses, detached(result.additional_outputs) if result.additional_outputs else {}


def _step(
    graph: CompiledStep,
    parameters: list[Tensor],
    states: list[list[Tensor]],
    buffers: list[Tensor],
    given: list[Tensor],
    batch: dict[str, Tensor],
    gradients: list[Tensor] | None,
    earlier: Tensor | None,
) -> Any:
    """Do an accumulation step; this function is traced, with the graph object as a constant."""

    def loss_of(trained: list[Tensor], changing: list[Tensor], batch: dict[str, Tensor]) -> Any:
        values = dict(zip(graph.names, trained, strict=True)) | dict(zip(graph.buffers, changing, strict=True))
        result = torch.func.functional_call(graph.forward, values, (batch,))
        return result.total_loss / graph.count, _parts(result)

    changing = [buffer.clone() for buffer in buffers]
    computed, (_, (losses, outputs)) = torch.func.grad_and_value(loss_of, has_aux=True)(parameters, changing, batch)
    if gradients is not None:
        for total, part in zip(gradients, computed, strict=True):
            total.add_(part)
        computed = gradients
    outputs = outputs or None
    bad = ~losses["total"].isfinite()
    if not graph.is_last:
        for buffer, new in zip(buffers, changing, strict=True):
            buffer.copy_(new)
        return losses, outputs, None, None, computed if graph.is_first else None
    for gradient in computed:
        bad = bad | ~gradient.isfinite().all()
    if earlier is not None:
        bad = bad | ~earlier.isfinite().all()
    norms, start = [], 0
    for optimizer, state, values in zip(graph.optimizers, states, given, strict=True):
        end = start + len(optimizer.parameters)
        clipped, norm = optimizer.clipped(computed[start:end], bad)
        optimizer.apply(parameters[start:end], state, values, clipped, bad)
        norms.append(norm)
        start = end
    for buffer, new in zip(buffers, changing, strict=True):
        buffer.copy_(torch.where(bad, buffer, new) if graph.is_first else new)
    return losses, outputs, torch.where(bad, math.nan, 0.0), norms, None


def _own_name(name: str) -> str:
    return name.removeprefix("model.")


def _shortened(error: BaseException) -> str:
    """Return the first line of the error of a compiler, with the context that it gives."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    context = [line.removeprefix(_CONTEXT).strip() for line in lines if line.startswith(_CONTEXT)]
    return f"it cannot be compiled: {': '.join([lines[0], *context])[:_SHOWN]}"


def _require_plain(result: TrainerResult, gradients: Mapping[str, Tensor | None]) -> None:
    """Refuse results that a graph would not handle as an eager update does.

    Raises:
        UnfitError: if one was found.
    """
    if result.count is not None:
        raise UnfitError("the losses have counts, as those of padded batches")
    for name, gradient in gradients.items():
        if gradient is None:
            raise UnfitError(f"parameter '{_own_name(name)}' has no gradient")
        if gradient.layout is not torch.strided:
            raise UnfitError(f"the gradient of '{_own_name(name)}' is sparse")
    if not all(isinstance(part, Tensor) for part in (result.losses_to_log or {}).values()):
        raise UnfitError("a part of the loss is not a tensor")
    if not _has_only_tensors(result.additional_outputs or {}):
        raise UnfitError("an additional output is not a tensor")


def _has_only_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(part is None or _has_only_tensors(part) for part in value.values())
    return isinstance(value, Tensor) or (type(value) in (list, tuple) and all(map(_has_only_tensors, value)))
