"""Exponential moving averages of weights: follow, exchange with live weights, save, restore."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from noether.checkpoint.paths import PathProvider, ResumptionPaths, checkpoint_folders
from noether.checkpoint.saved import CheckpointNames, SavedCheckpoint
from noether.checkpoint.shards import in_shards_of
from noether.checkpoint.state import callback_file
from noether.core.models.weights import LiveWeights
from noether.errors import CheckpointError, SpecError, TrainingError
from noether.optim.kernels import is_sharded, local, sharing


def flattened(live: LiveWeights) -> FlatParameters:
    """Move parameters into one buffer.

    Raises:
        SpecError: if they have several types or devices, are of half precision, or share memory, which would end.
    """
    if any(map(is_sharded, live.parameters.values())):
        raise SpecError(
            "wrong memory for flat_parameters: found sharded parameters, expected whole ones",
            hint='remove flat_parameters, or set parallel = "replicated" under [trainer]',
        )
    shared = sharing({**live.parameters, **live.copied()})
    if shared:
        raise SpecError(
            f"wrong memory for flat_parameters: found '{shared[0]}' and '{shared[1]}' in the same memory, expected "
            "parameters with memory of their own",
            hint="remove flat_parameters",
        )
    return FlatParameters(list(live.parameters.values()))


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
        self._filled = [
            index for index, parameter in enumerate(parameters) if parameter.numel()
        ]  # others have no place
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
        first = self.buffer.data_ptr()
        for index in self._filled if self._is_new else self._filled[-1:]:
            if self._parameters[index].data_ptr() != first + self._starts[index] * self.buffer.itemsize:
                raise TrainingError(
                    "parameters have left the buffer of flat_parameters: other code gave them new storage",
                    hint="remove flat_parameters; or set it on one `ema` without overlapping model_paths, and use no "
                    "code that assigns new parameters",
                )
        self._is_new = False


class Average:
    """One average of weights, `average = factor * average + (1 - factor) * weight`; buffers and integers are copied.

    Averages are kept in float32 at least: half precision would lose the small changes of a factor near 1. A few calls
    update all parameters of the model, on lists that are made once.

    Args:
        live: Weights to follow; the average starts from their current values.
        factor: Weight of the past, in [0, 1).
        flat: Buffer that holds the parameters, if there is one; the averages are then one buffer too.

    Attributes:
        copies: Copies of buffers and integers by name.
    """

    def __init__(self, live: LiveWeights, factor: float, flat: FlatParameters | None = None) -> None:
        self.factor = factor
        self._live = live
        self._parameters = list(live.parameters.values())
        # Each rank averages its part of a sharded parameter.
        self._weights: list[Tensor] = [local(p.detach()) if is_sharded(p) else p for p in self._parameters]
        self._flat = flat
        if flat is None:
            self._averages = [_own(parameter) for parameter in self._parameters]
        else:
            self._flat_average = flat.buffer.clone()
            self._averages = flat.views_of(self._flat_average)
        self._own = list(map(local, self._averages))
        self.copies = {name: tensor.detach().clone() for name, tensor in live.copied().items()}
        # Half-precision weights are converted into these first, because lerp takes one type only.
        converted = any(
            average.dtype != parameter.dtype
            for average, parameter in zip(self._averages, self._parameters, strict=True)
        )
        self._converted = [torch.empty_like(average) for average in self._own] if converted else None
        self._dtypes = [average.dtype for average in self._averages]
        self._is_single = all(dtype is torch.float32 for dtype in self._dtypes)

    def update(self, applied: Tensor | None = None) -> None:
        """Follow one optimizer update.

        Args:
            applied: 0-dim tensor, 1 if the update was applied and 0 if not; None if it is known to be applied.
        """
        weights = self._weights
        if self._flat is not None:
            self._flat.check()
            share = 1.0 - self.factor if applied is None else self._shares(applied)[0]
            self._flat_average.lerp_(self._flat.buffer, share)
        elif weights:
            if self._converted is not None:
                torch._foreach_copy_(self._converted, weights)
                weights = self._converted
            if applied is None:
                torch._foreach_lerp_(self._own, weights, 1.0 - self.factor)
            else:
                torch._foreach_lerp_(self._own, weights, self._shares(applied))
        if self.copies:
            self._copy(applied)

    def _shares(self, applied: Tensor) -> list[Tensor]:
        """Return the share of the weights in each average, in its type as lerp wants it."""
        share = applied * (1.0 - self.factor)
        if self._is_single:
            return [share] * len(self._averages)
        shares = {dtype: share.to(dtype) for dtype in set(self._dtypes)}
        return [shares[dtype] for dtype in self._dtypes]

    def _copy(self, applied: Tensor | None) -> None:
        """Copy buffers; one that was resized is copied as a whole, for which the host waits for the device."""
        for name, tensor in self._live.copied().items():
            kept = self.copies.get(name)
            if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                if applied is None or applied:
                    self.copies[name] = tensor.detach().clone()
            else:
                kept.copy_(tensor if applied is None else torch.where(applied.bool(), tensor, kept))

    def _find_late(self) -> None:
        """Begin copies of buffers that were None so far, and forget those of buffers that are None now."""
        self._live.find_late()
        found = self._live.copied()
        self.copies = {
            name: self.copies[name] if name in self.copies else tensor.detach().clone()
            for name, tensor in found.items()
        }

    @contextmanager
    def in_place_of_live(self, *, exchange: bool) -> Iterator[None]:
        """Put the averages into the model, and restore its own weights afterwards, also after an error.

        Args:
            exchange: True to exchange storages instead of copying values; possible only if nothing else holds the
                storages, such as a compiled graph or sharded parameters.
        """
        held = [parameter.data if exchange else parameter.data.clone() for parameter in self._parameters]
        self._find_late()
        copied = self._live.copied()
        try:
            self._put(self._in_model_type(), exchange=exchange)
            self._live.put_copied({name: _like(copied[name], copy) for name, copy in self.copies.items()})
            yield
        finally:
            self._put(held, exchange=exchange)
            self._live.put_copied(copied)

    def _in_model_type(self) -> list[Tensor]:
        if self._converted is None:
            return self._averages
        return [
            average.to(parameter.dtype) for average, parameter in zip(self._averages, self._parameters, strict=True)
        ]

    def _put(self, tensors: list[Tensor], *, exchange: bool) -> None:
        if not exchange and tensors:
            torch._foreach_copy_([local(parameter.data) for parameter in self._parameters], list(map(local, tensors)))
            return
        for parameter, tensor in zip(self._parameters, tensors, strict=True):
            parameter.data = tensor

    def state(self) -> dict[str, Tensor]:
        """Return the averages themselves under the model's names; tied weights share one tensor."""
        self._find_late()
        tensors = dict(zip(self._live.parameters, self._averages, strict=True)) | self.copies
        return tensors | {alias: tensors[name] for alias, name in self._live.aliases.items()}


def _own(parameter: nn.Parameter) -> Tensor:
    """Return a copy in single precision at least."""
    single = torch.complex64 if parameter.is_complex() else torch.float32
    dtype = parameter.dtype if parameter.dtype.itemsize >= single.itemsize else single
    return parameter.detach().to(dtype, copy=True)


def _like(tensor: Tensor, copy: Tensor) -> Tensor:
    """Return a copy for the place of a tensor: a parameter for a parameter."""
    return nn.Parameter(copy.clone(), requires_grad=False) if isinstance(tensor, nn.Parameter) else copy.clone()


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
            if file not in saved.manifest.holds:
                continue
            tensors = saved.tensors(file)
        except CheckpointError as error:
            _LOG.warning("%s", error)
            continue
        if index:
            _LOG.warning("the checkpoint holds no %s; the averages come from %s", file, folder)
        return tensors, str(folder / file)
    return None


def load_averages(averages: Sequence[Average], saved: Mapping[str, Tensor], source: str) -> None:
    """Load saved values into averages; a copied buffer may have another shape than the model's.

    Args:
        averages: Averages of one factor.
        saved: Saved values by name.
        source: Source of the values, for the error.

    Raises:
        CheckpointError: if names or shapes differ.
    """
    state = {name: tensor for average in averages for name, tensor in average.state().items()}
    saved = in_shards_of(state, saved)
    if state.keys() != saved.keys():
        missing, extra = sorted(state.keys() - saved.keys()), sorted(saved.keys() - state.keys())
        raise CheckpointError(
            f"{source}: averages of other weights: missing {missing or 'none'}, not expected {extra or 'none'}",
            hint="resume with the model and the model_paths of the run that saved them",
        )
    for name, tensor in saved.items():
        if state[name].shape == tensor.shape:
            state[name].copy_(tensor)
            continue
        copies = next((average.copies for average in averages if name in average.copies), None)
        if copies is None:
            shapes = f"found {tuple(tensor.shape)}, expected {tuple(state[name].shape)}"
            raise CheckpointError(f"{source}: wrong shape of the average {name}: {shapes}")
        copies[name] = tensor.to(copies[name].device, copy=True)


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
