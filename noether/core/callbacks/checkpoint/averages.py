"""Exponential moving averages of weights: follow, exchange with live weights, save, restore."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from noether.checkpoint.folder import checkpoint_folders
from noether.checkpoint.names import CheckpointNames
from noether.checkpoint.paths import PathProvider, ResumptionPaths
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import callback_file
from noether.errors import CheckpointError, SpecError, TrainingError

WHOLE = "composite_model"
"""First part of a path in `model_paths`, for the model itself, unless it has a part of that name."""


class LiveWeights:
    """Parameters and persistent buffers of a model or one of its parts, under the names of its `state_dict`.

    Args:
        model: The model.
        path: Prefix of the names, such as `encoder` or `composite_model.encoder`; None for the whole model.

    Attributes:
        parameters: Parameters by name; a tied one under its first name only.
        aliases: Other names of tied tensors, each with the first name.

    Raises:
        SpecError: if no name starts with the path.
    """

    def __init__(self, model: nn.Module, path: str | None = None) -> None:
        owners = _buffer_owners(model)
        state = {
            name: value  # a module's extra state is neither averaged nor exchanged
            for name, value in model.state_dict(keep_vars=True).items()
            if isinstance(value, nn.Parameter) or id(value) in owners
        }
        chosen = _below(path, state) or _below(_within_the_model(path), state)
        if not chosen:
            parts = dict.fromkeys(name.split(".", 1)[0] for name in state)
            raise SpecError(
                f"unknown path in model_paths: found {path!r}, expected a prefix of the model's weight names",
                hint=f"the parts of the model are {', '.join(parts)}",
            )
        first_names: dict[int, str] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.aliases: dict[str, str] = {}
        self._buffers: dict[str, tuple[nn.Module, str]] = {}
        for name in chosen:
            tensor = state[name]
            if (first := first_names.setdefault(id(tensor), name)) != name:
                self.aliases[name] = first
            elif isinstance(tensor, nn.Parameter):
                self.parameters[name] = tensor
            else:
                self._buffers[name] = owners[id(tensor)]

    def buffers(self) -> dict[str, Tensor]:
        """Return the current buffers by name; a module may replace a buffer tensor at any time."""
        return {name: module._buffers[key] for name, (module, key) in self._buffers.items()}  # type: ignore[misc]  # a persistent buffer that is a tensor

    def put_buffers(self, buffers: dict[str, Tensor]) -> None:
        """Replace the buffer tensors."""
        for name, (module, key) in self._buffers.items():
            module._buffers[key] = buffers[name]


def _below(path: str | None, names: Iterable[str]) -> list[str]:
    return [name for name in names if path is None or name == path or name.startswith(f"{path}.")]


def _within_the_model(path: str | None) -> str | None:
    """Return a path without `composite_model`, which may stand for the model itself; None for the whole model."""
    return None if path is None or path == WHOLE else path.removeprefix(f"{WHOLE}.")


def _buffer_owners(model: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """Return the module and key of each buffer, by the id of its tensor."""
    return {
        id(buffer): (module, key)
        for module in model.modules()
        for key, buffer in module._buffers.items()
        if isinstance(buffer, torch.Tensor)
    }


_ALIGNMENT = 64  # bytes, as in torch's allocator, so that kernels see the same alignment


class FlatParameters:
    """One buffer that holds all parameters; moving them there keeps their values.

    Args:
        parameters: Parameters of one type on one device.

    Attributes:
        buffer: One-dimensional, with zeros between parameters for alignment.

    Raises:
        SpecError: if the parameters have several types or devices, or are of half precision.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
        if len(kinds) != 1 or any(dtype.itemsize < torch.float32.itemsize for dtype, _ in kinds):
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "none"
            raise SpecError(
                f"wrong types for flat_parameters: found {found}, expected one type of 32 or 64 bits on one device",
                hint="remove flat_parameters",
            )
        ((dtype, device),) = kinds
        unit = _ALIGNMENT // dtype.itemsize
        self._parameters = list(parameters)
        self._is_new = True
        self._starts = [0]
        for parameter in parameters:
            self._starts.append(self._starts[-1] + -(-parameter.numel() // unit) * unit)
        self.buffer = torch.zeros(self._starts[-1], dtype=dtype, device=device)
        for parameter, view in zip(parameters, self.views_of(self.buffer), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view

    def views_of(self, buffer: Tensor) -> list[Tensor]:
        """Return one view for each parameter into a buffer of the same layout."""
        return [
            buffer[start : start + parameter.numel()].view(parameter.shape)
            for parameter, start in zip(self._parameters, self._starts, strict=False)
        ]

    def check(self) -> None:
        """Check that the parameters still lie in the buffer.

        The first check covers all parameters, because a second buffer may have taken some; later checks cover the last.

        Raises:
            TrainingError: if a parameter has other storage.
        """
        first, last = self.buffer.data_ptr(), len(self._parameters) - 1
        for index in range(last + 1) if self._is_new else (last,):
            if self._parameters[index].data_ptr() != first + self._starts[index] * self.buffer.itemsize:
                raise TrainingError(
                    "parameters have left the buffer of flat_parameters: other code gave them new storage",
                    hint="remove flat_parameters; or set it on one `ema` without overlapping model_paths, and use no "
                    "code that assigns new parameters",
                )
        self._is_new = False


class Average:
    """One average of weights, `average = factor * average + (1 - factor) * weight`; buffers are copied.

    Averages are kept in float32 at least: half precision would lose the small changes of a factor near 1. A few calls
    update all parameters of the model, on lists that are made once.

    Args:
        live: Weights to follow; the average starts from their current values.
        factor: Weight of the past, in [0, 1).
        flat: Buffer that holds the parameters, if there is one; the averages are then one buffer too.
    """

    def __init__(self, live: LiveWeights, factor: float, flat: FlatParameters | None = None) -> None:
        self.factor = factor
        self._live = live
        self._parameters = list(live.parameters.values())
        self._weights: list[Tensor] = [*self._parameters]
        self._flat = flat
        if flat is None:
            self._averages = [_own(parameter) for parameter in self._parameters]
        else:
            self._flat_average = flat.buffer.clone()
            self._averages = flat.views_of(self._flat_average)
        self._buffers = {name: buffer.detach().clone() for name, buffer in live.buffers().items()}
        # Half-precision weights are converted into these first, because lerp takes one type only.
        converted = any(
            average.dtype != parameter.dtype
            for average, parameter in zip(self._averages, self._parameters, strict=True)
        )
        self._converted = [torch.empty_like(average) for average in self._averages] if converted else None

    def update(self, applied: Tensor | None = None) -> None:
        """Follow one optimizer update.

        Args:
            applied: 0-dim tensor, 1 if the update was applied and 0 if not; None if it is known to be applied.
        """
        weights = self._weights
        if self._flat is not None:
            self._flat.check()
            share = 1.0 - self.factor if applied is None else applied * (1.0 - self.factor)
            self._flat_average.lerp_(self._flat.buffer, share)
        elif weights:
            if self._converted is not None:
                torch._foreach_copy_(self._converted, weights)
                weights = self._converted
            if applied is None:
                torch._foreach_lerp_(self._averages, weights, 1.0 - self.factor)
            else:
                torch._foreach_lerp_(self._averages, weights, [applied * (1.0 - self.factor)] * len(weights))
        if self._buffers:
            self._copy_buffers(applied)

    def _copy_buffers(self, applied: Tensor | None) -> None:
        for name, buffer in self._live.buffers().items():
            kept = self._buffers[name]
            kept.copy_(buffer if applied is None else torch.where(applied.bool(), buffer, kept))

    @contextmanager
    def in_place_of_live(self, *, exchange: bool) -> Iterator[None]:
        """Put the averages into the model, and restore its own weights afterwards, also after an error.

        Args:
            exchange: True to exchange storages instead of copying values; possible only if nothing else holds the
                storages, such as a compiled graph or sharded parameters.
        """
        held = [parameter.data if exchange else parameter.data.clone() for parameter in self._parameters]
        buffers = self._live.buffers()
        try:
            self._put(self._in_model_type(), exchange=exchange)
            self._live.put_buffers({name: buffer.clone() for name, buffer in self._buffers.items()})
            yield
        finally:
            self._put(held, exchange=exchange)
            self._live.put_buffers(buffers)

    def _in_model_type(self) -> list[Tensor]:
        if self._converted is None:
            return self._averages
        return [
            average.to(parameter.dtype) for average, parameter in zip(self._averages, self._parameters, strict=True)
        ]

    def _put(self, tensors: list[Tensor], *, exchange: bool) -> None:
        if not exchange:
            torch._foreach_copy_([parameter.data for parameter in self._parameters], tensors)
            return
        for parameter, tensor in zip(self._parameters, tensors, strict=True):
            parameter.data = tensor

    def state(self) -> dict[str, Tensor]:
        """Return the averages themselves under the model's names; tied weights share one tensor."""
        tensors = dict(zip(self._live.parameters, self._averages, strict=True)) | self._buffers
        return tensors | {alias: tensors[name] for alias, name in self._live.aliases.items()}


def _own(parameter: nn.Parameter) -> Tensor:
    tensor = parameter.detach()
    dtype = torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype
    return tensor.to(dtype, copy=True)


_LOG = logging.getLogger("noether.callbacks.ema")


def find_averages(paths: PathProvider, owner: str, name: str) -> tuple[dict[str, Tensor], str] | None:
    """Return saved averages by name, with their source; None if no checkpoint holds them.

    Args:
        paths: Paths of the run that is resumed.
        owner: Id of the callback that saved them.
        name: Name of its file.
    """
    file = callback_file(owner, name)
    for index, folder in enumerate(_places(paths)):
        try:
            saved = SavedCheckpoint.open(folder)
            if file not in saved.manifest.files:
                continue
            tensors = saved.tensors(file)
        except CheckpointError as error:
            _LOG.warning("%s", error)
            continue
        if index:
            _LOG.warning("the checkpoint holds no %s; the averages come from %s", file, folder)
        return tensors, str(folder / file)
    return None


def load_averages(averages: Mapping[str, Tensor], saved: Mapping[str, Tensor], source: str) -> None:
    """Copy saved values into the tensors of the same names.

    Args:
        averages: Tensors to fill.
        saved: Saved values.
        source: Source of the values, for the error.

    Raises:
        CheckpointError: if names or shapes differ.
    """
    if averages.keys() != saved.keys():
        missing, extra = sorted(averages.keys() - saved.keys()), sorted(saved.keys() - averages.keys())
        raise CheckpointError(
            f"{source}: averages of other weights: missing {missing or 'none'}, not expected {extra or 'none'}",
            hint="resume with the model and the model_paths of the run that saved them",
        )
    for name, tensor in saved.items():
        if averages[name].shape != tensor.shape:
            shapes = f"found {tuple(tensor.shape)}, expected {tuple(averages[name].shape)}"
            raise CheckpointError(f"{source}: wrong shape of the average {name}: {shapes}")
        averages[name].copy_(tensor)


def _places(paths: PathProvider) -> Iterator[Path]:
    """Yield the checkpoints to search: the resumed one, those before it from the newest on, then `last`."""
    resumed = paths.checkpoint_folder if isinstance(paths, ResumptionPaths) else None
    if resumed is not None:
        yield resumed
    folders = checkpoint_folders(paths.checkpoint_path)
    yield from (folder for folder in reversed(folders) if resumed is None or folder.name < resumed.name)
    try:
        yield CheckpointNames(paths.checkpoint_path).find("last").saved.folder
    except CheckpointError:
        return
