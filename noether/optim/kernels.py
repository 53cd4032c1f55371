"""Kernels over all parameters: implementations of the optimizer step, and norms of gradients of any type and layout."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from noether.errors import SpecError, TrainingError
from noether.kernel.names import listed

_SHOWN = 8  # names in a message
_SINGLE, _DOUBLE = torch.float32, torch.float64
_FUSED: dict[str, tuple[torch.dtype, ...]] = {
    "cpu": (_SINGLE, _DOUBLE),
    "cuda": (_SINGLE, _DOUBLE),
    "mps": (_SINGLE,),
    "xpu": (_SINGLE, _DOUBLE),
}
"""Types by device that fused kernels update as a loop does; half precision is rounded elsewhere, or not updated."""


def single(number: float) -> float:
    """Return the nearest number of float32."""
    (rounded,) = struct.unpack("f", struct.pack("f", number))
    return float(rounded)


def with_implementation(
    optimizer_class: type[Optimizer],
    options: dict[str, Any],
    parameters: Mapping[str, nn.Parameter],
    sparse: Collection[str] = (),
) -> dict[str, Any]:
    """Return the options with torch's fused kernel if it computes what a loop over the parameters does.

    Otherwise the implementation is torch's default, or the loop if parameters share memory, which kernels over all of
    them at once write to in any order. Options of an optimizer from elsewhere stay, and an implementation that the spec
    names.

    Args:
        optimizer_class: Class of the optimizer.
        options: Its options in the spec.
        parameters: The trainable parameters by name.
        sparse: Names of parameters with sparse gradients.

    Raises:
        SpecError: if a parameter cannot be trained at all, or not by the implementation that the spec names.
    """
    _require_own_memory(parameters)
    _require_support(optimizer_class, options, parameters)
    shared = sharing(parameters)
    unfused = _misfit(parameters, sparse, shared) or _unsharded(optimizer_class, parameters)
    for option, misfit in (("fused", unfused), ("foreach", shared and _sharing(*shared))):
        if options.get(option) and misfit:
            raise SpecError(
                f"wrong {option} = true for the optimizer {optimizer_class.__name__}: found {misfit}",
                hint=f"remove {option}; the optimizer then takes an implementation that fits",
            )
    chosen = any(options.get(key) is not None for key in ("fused", "foreach"))
    chosen = chosen or any(options.get(key) for key in ("differentiable", "capturable"))
    if chosen or not optimizer_class.__module__.startswith("torch.optim"):
        return options
    known = inspect.signature(optimizer_class).parameters
    if "fused" in known and unfused is None:
        return {**options, "fused": True}
    return {**options, "foreach": False} if shared and "foreach" in known else options


def _misfit(
    parameters: Mapping[str, nn.Parameter], sparse: Collection[str], shared: tuple[str, str] | None
) -> str | None:
    """Return the reason why a fused kernel does not suit the parameters; None if it does."""
    for name, parameter in parameters.items():
        allowed = _FUSED.get(parameter.device.type, ())
        if type(parameter) is not nn.Parameter and not is_sharded(parameter):
            return f"parameter '{name}' of the class {type(parameter).__name__}, expected torch.nn.Parameter"
        if parameter.dtype not in allowed:
            expected = " or ".join(map(str, allowed)) or "another device"
            return f"parameter '{name}' of {parameter.dtype} on {parameter.device}, expected {expected}"
        if name in sparse:
            return f"sparse gradients of parameter '{name}', expected dense ones"
        if not is_contiguous(parameter):
            return f"parameter '{name}' with gaps or another order in memory, expected a contiguous one"
    return shared and _sharing(*shared)


def _unsharded(optimizer_class: type[Optimizer], parameters: Mapping[str, nn.Parameter]) -> str | None:
    """Return the reason why a fused kernel does not take sharded parameters; None if it does, or if there are none."""
    if optimizer_class in (Adam, AdamW) or not any(map(is_sharded, parameters.values())):
        return None
    return "sharded parameters, expected whole ones, or Adam or AdamW"


def _sharing(name: str, other: str) -> str:
    return f"parameters '{name}' and '{other}' in the same memory, expected memory of their own"


def _require_own_memory(parameters: Mapping[str, nn.Parameter]) -> None:
    """Check that no element of a parameter stands for several.

    Raises:
        SpecError: if one does, as after `expand`: no optimizer can update it.
    """
    for name, parameter in parameters.items():
        if is_expanded(parameter):
            raise SpecError(
                f"parameter '{name}' cannot be trained: found an expanded tensor, whose elements share memory, "
                "expected one value for each element",
                hint="call .clone() before nn.Parameter, and expand it in forward; or freeze it",
            )


def _require_support(
    optimizer_class: type[Optimizer], options: dict[str, Any], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Try torch's optimizer on a copy of each complex or empty parameter's kind, before the model is trained by it.

    Raises:
        SpecError: if it cannot update one.
    """
    if not optimizer_class.__module__.startswith("torch.optim"):
        return
    for name, parameter in parameters.items():
        if parameter.is_complex() or not parameter.numel():
            tried = nn.Parameter(parameter.new_zeros((2, 2) if parameter.numel() else parameter.shape))
            tried.grad = torch.zeros_like(tried)
            try:
                optimizer_class([tried], **options).step()
            except (RuntimeError, ZeroDivisionError) as error:
                found = parameter.dtype if parameter.numel() else "no elements"
                raise SpecError(
                    f"{optimizer_class.__name__} cannot update parameter '{name}': found {found}: {error}",
                    hint="choose another optimizer, for example AdamW, or freeze the parameter",
                ) from error
            except (TypeError, ValueError):  # of wrong options, or of an optimizer that takes a closure
                return


def is_contiguous(tensor: Tensor) -> bool:
    """Return True for dense tensors whose elements lie in memory row by row."""
    return tensor.layout is torch.strided and tensor.is_contiguous()


def is_expanded(tensor: Tensor) -> bool:
    """Return True if several elements of a tensor are one in memory, as after `expand`."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return False
    return any(size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def sharing(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the names of two tensors that lie in the same stretch of memory; None if there are none.

    Slices that take turns in memory, such as columns of one matrix, count as well.
    """
    spans = sorted(
        (str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), name)
        for name, tensor in zip(tensors, map(local, tensors.values()), strict=True)
        if tensor.layout is torch.strided and tensor.numel() and not tensor.is_meta
    )
    for (device, _, end, name), (other_device, start, _, other) in pairwise(spans):
        if device == other_device and start < end:
            return name, other
    return None


def _extent(tensor: Tensor) -> int:
    """Return the bytes from the first to the last element."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (reach + 1) * tensor.itemsize


def require_scalable(parameters: Mapping[str, nn.Parameter], precision: str) -> None:
    """Check that torch's gradient scaler takes the gradients of all parameters.

    Raises:
        SpecError: if one is of half precision or complex.
    """
    for name, parameter in parameters.items():
        if parameter.dtype is torch.float16 or parameter.is_complex():
            raise SpecError(
                f"precision = {precision!r} does not fit parameter '{name}': found {parameter.dtype}, expected "
                "torch.float32, of which only the forward pass makes half precision",
                hint='keep the weights in float32, or set precision = "fp32" under [trainer]',
            )


# Sharded tensors: each rank holds a part, and operations are those of the whole tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return True for a DTensor, of which each rank holds a part."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return the part of a sharded tensor that this rank holds, in the same memory; any other tensor as it is."""
    sharded: Any = tensor
    return sharded.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor put together, which all ranks do at once; any other tensor as it is."""
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


# Gradients


def strided(gradient: Tensor) -> Tensor:
    """Return the numbers of a gradient as one dense tensor: itself, or the summed entries of a sparse one."""
    if gradient.layout is torch.strided:
        return gradient
    return (gradient.coalesce() if gradient.is_sparse else gradient).values()


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm over tensors of any layout and type; that of half precision is in float32."""
    numbers = [strided(tensor) for tensor in tensors]
    halves = [tensor for tensor in numbers if tensor.dtype.itemsize < _SINGLE.itemsize]
    norm: Tensor = torch.nn.utils.get_total_norm(
        [tensor for tensor in numbers if tensor.dtype.itemsize >= _SINGLE.itemsize]
    )
    if not halves:
        return whole(norm)
    norms = torch._foreach_norm(halves, 2.0, dtype=_SINGLE)
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(halves[0].device), *norms]))
    return whole(total)


def clip_norm(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Clip gradients of any layout and type as `torch.nn.utils.clip_grad_norm_` does dense ones; return their norm."""
    gradients = _summed(parameters)
    norm = total_norm(gradients)
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    for gradient in gradients:
        strided(gradient).mul_(factor.to(gradient.device))
    return norm


def is_uniform(parameters: Sequence[nn.Parameter]) -> bool:
    """Return True for plain parameters of one floating-point type on one device."""
    kinds = {(type(parameter), parameter.dtype, parameter.device) for parameter in parameters}
    return len(kinds) == 1 and all(kind is nn.Parameter and dtype in (_SINGLE, _DOUBLE) for kind, dtype, _ in kinds)


def clip_norm_of_uniform(gradients: list[Tensor], max_norm: float) -> Tensor:
    """Clip gradients of uniform parameters with the kernels of `torch.nn.utils.clip_grad_norm_`; return their norm.

    Raises:
        NotImplementedError: if one is sparse; nothing is scaled then.
    """
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)), 2.0)
    torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


def clip_value(parameters: Sequence[nn.Parameter], value: float) -> None:
    """Clip the entries of gradients of any layout, as `torch.nn.utils.clip_grad_value_` does those of dense ones."""
    for gradient in _summed(parameters):
        strided(gradient).clamp_(min=-value, max=value)


def _summed(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Sum the entries of sparse gradients at the same place, in place; return all gradients."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def wrong_gradients(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], error: RuntimeError) -> TrainingError:
    """Return the error that an optimizer takes no sparse gradients, or only such."""
    named = [(name, p.grad) for name, p in parameters.items() if p.grad is not None]
    sparse = listed([name for name, gradient in named if gradient.is_sparse], _SHOWN)
    dense = listed([name for name, gradient in named if not gradient.is_sparse], _SHOWN)
    return TrainingError(
        f"the optimizer {type(optimizer).__name__} cannot use these gradients: found sparse ones of "
        f"{sparse or 'no parameter'} and dense ones of {dense or 'no parameter'}: {error}",
        hint="set sparse = False for the embedding; or choose SGD or Adagrad, which take both kinds",
    )


def fit_to_gradients(optimizer: Optimizer, gradients: Sequence[Tensor]) -> bool:
    """Give up a fused kernel if the gradients are not those that it expects; make sparse ones dense for SGD.

    Sparse gradients of a function, such as `embedding(…, sparse=True)`, cannot be known before. With momentum or weight
    decay, SGD would keep sparse sums, which no checkpoint holds, or refuse them.

    Returns:
        True if a kernel was given up.
    """
    fused = [group for group in optimizer.param_groups if group.get("fused")]
    if _are_contiguous(gradients):
        return False
    for group in fused:
        group["fused"] = False
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # torch's agreement with scalers
    keeps_sums = any(group.get("momentum") or group.get("weight_decay") for group in optimizer.param_groups)
    is_made_dense = _make_dense in optimizer._optimizer_step_pre_hooks.values()
    if isinstance(optimizer, SGD) and keeps_sums and not is_made_dense and any(g.is_sparse for g in gradients):
        optimizer.register_step_pre_hook(_make_dense)
    return bool(fused)


def lay_out(parameters: Sequence[nn.Parameter]) -> bool:
    """Give gradients that a callback has replaced memory row by row, as their parameters have it.

    Returns:
        True if some are sparse, or their parameters lie otherwise.
    """
    if _are_contiguous([parameter.grad for parameter in parameters if parameter.grad is not None]):
        return False
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None or gradient.layout is not torch.strided or gradient.is_contiguous():
            continue
        if parameter.is_contiguous() or is_expanded(gradient):
            parameter.grad = gradient.contiguous()
    return not _are_contiguous([parameter.grad for parameter in parameters if parameter.grad is not None])


def _are_contiguous(gradients: Sequence[Tensor]) -> bool:
    """Return True for gradients that are dense and lie in memory row by row; no call of Python for each."""
    try:
        return all(map(Tensor.is_contiguous, gradients))
    except RuntimeError:  # of a sparse one
        return False


def _make_dense(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
