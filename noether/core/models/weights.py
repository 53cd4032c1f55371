"""Match the state in a checkpoint with a model; buffers that change shape; LiveWeights, which averages follow."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from noether.checkpoint.state import encode_state
from noether.checkpoint.state_tree import CodeName
from noether.errors import CheckpointError, SpecError, error_text
from noether.kernel.names import listed
from noether.optim.kernels import is_expanded, is_sharded, local, sharing

_SHOWN = 12  # most names in a message


@dataclass(frozen=True, slots=True)
class WeightsMatch:
    """Comparison of a checkpoint's tensors, and of the other values of a state, with those of a model.

    Attributes:
        fitting: Values to load, by their names in the model.
        wanted: Number of selected names of the model.
        missing: Names in the model but not in the checkpoint; a tied name counts as present with its twin.
        unused: Names in the checkpoint but not in the model.
        other_shape: Both shapes or types that differ, by name: `(10, 64) instead of (12, 64)`.
    """

    fitting: Mapping[str, Any]
    wanted: int
    missing: Sequence[str]
    unused: Sequence[str]
    other_shape: Mapping[str, str]

    @property
    def is_complete(self) -> bool:
        """True if model and checkpoint have the same tensors in the same shapes."""
        return not (self.missing or self.unused or self.other_shape)

    def report(self, source: str) -> str:
        """Return one line with the number of tensors loaded from `source` and the names of the others."""
        found = self.wanted - len(self.missing) - len(self.other_shape)
        shapes = [f"{name} {difference}" for name, difference in self.other_shape.items()]
        lists = {"not in the checkpoint": self.missing, "not in the model": self.unused, "other shape": shapes}
        parts = [f"{title}: {listed(names, _SHOWN)}" for title, names in lists.items() if names]
        return "; ".join([f"{found} of {self.wanted} tensors loaded from {source}", *parts])

    def require_complete(self, source: str, *, hint: str) -> None:
        """Check that all tensors fit.

        Raises:
            CheckpointError: if one does not; the message lists all of them.
        """
        if not self.is_complete:
            raise CheckpointError("the weights do not fit the model: " + self.report(source), hint=hint)

    def load_into(self, model: nn.Module, versions: Any = None) -> None:
        """Copy the fitting values into the model, tensors in place; the others keep their values.

        An expanded tensor, whose elements are one in memory, gets memory for all of them first.

        Args:
            model: The model.
            versions: The `_metadata` of a `state_dict`: versions of modules, which may convert an older state.

        Raises:
            CheckpointError: if the model refuses or leaves a tensor.
        """
        try:
            with torch.no_grad():
                for tensor in model.state_dict(keep_vars=True).values():
                    if isinstance(tensor, Tensor) and is_expanded(tensor):
                        tensor.data = tensor.data.contiguous()
                result = _load(model, self.fitting, versions)
        except Exception as error:  # of a hook, of set_extra_state, or of a method that the model overrides
            raise CheckpointError(f"the model cannot load its state: {error_text(error)}") from error
        strange = {*getattr(result, "missing_keys", ()), *getattr(result, "unexpected_keys", ())}
        if left := sorted(name for name in strange if isinstance(self.fitting.get(name), Tensor)):
            raise _not_taken(left)


def _load(model: nn.Module, values: Mapping[str, Any], versions: Any) -> Any:
    def given() -> OrderedDict[str, Any]:
        copied: OrderedDict[str, Any] = OrderedDict(values)  # a method of the model's own may change it
        if versions is not None:
            copied._metadata = versions  # type: ignore[attr-defined]  # torch's own convention
        return copied

    try:
        return model.load_state_dict(given(), strict=False)
    except TypeError:  # a method of the model's own may take nothing but the state
        return model.load_state_dict(given())


def _not_taken(names: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"the model does not take its own state back: {listed(names, _SHOWN)} differ after loading",
        hint="let load_state_dict, its hooks and set_extra_state restore what state_dict and get_extra_state return",
    )


def match_weights(
    model: nn.Module, tensors: Mapping[str, Any], wanted: Callable[[str], bool] = lambda _: True
) -> WeightsMatch:
    """Compare the state of a checkpoint with that of a model.

    A file without other values than tensors is one of another program: the model keeps its own values then.

    Args:
        model: Model whose parameters, persistent buffers and other values of its state are compared.
        tensors: Tensors and other values by their names in the model.
        wanted: Return True to load the tensor of this name; other names are ignored on both sides.
    """
    only_tensors = all(isinstance(value, Tensor) for value in tensors.values())
    state = {name: value for name, value in model.state_dict().items() if wanted(name)}
    own = {name: value for name, value in state.items() if name in tensors or isinstance(value, Tensor)}
    own = own if only_tensors else state
    given = {name: value for name, value in tensors.items() if wanted(name)}
    common = [name for name in own if name in given]
    differences = {name: _difference(name, given[name], own[name]) for name in common}
    fitting = {name: _with_own_code(given[name], own[name]) for name in common if not differences[name]}
    loaded = {_place(own[name]) for name in fitting}
    return WeightsMatch(
        fitting=fitting,
        wanted=len(own),
        missing=[name for name in own if name not in given and _place(own[name]) not in loaded],
        unused=[name for name in given if name not in own],
        other_shape={name: difference for name, difference in differences.items() if difference},
    )


def _difference(name: str, given: Any, own: Any) -> str:
    """Return the reason why a value cannot take the place of the model's own; empty if it can."""
    if not isinstance(given, Tensor) or not isinstance(own, Tensor):
        try:
            _with_own_code(given, own)
        except ValueError as error:
            return str(error)
        is_extra = name.rpartition(".")[2] == _EXTRA_STATE  # it may change its type while a model trains
        same = is_extra or isinstance(given, Tensor) is isinstance(own, Tensor)
        return "" if same else f"{_described(given)} instead of {_described(own)}"
    if given.shape != own.shape and name.rpartition(".")[2] != _EXTRA_STATE:
        return f"{tuple(given.shape)} instead of {tuple(own.shape)}"
    return "" if torch.can_cast(given.dtype, own.dtype) else f"{given.dtype} instead of {own.dtype}"


_EXTRA_STATE = "_extra_state"  # torch's name for what a module returns from get_extra_state


def _described(value: Any) -> str:
    return f"a {type(value).__name__}"


def _with_own_code(given: Any, own: Any) -> Any:
    """Return a saved value in which the model's own functions and classes stand for their names.

    Raises:
        ValueError: if the model has other ones.
    """
    if isinstance(given, CodeName):
        if (found := CodeName.of(own)) != given:
            raise ValueError(f"{given.name} instead of {found.name if found else _described(own)}")
        return own
    if isinstance(given, dict):
        others = own if isinstance(own, dict) else {}
        return {key: _with_own_code(value, others.get(key)) for key, value in given.items()}
    if isinstance(given, list | tuple):
        pairs = zip_longest(given, own if isinstance(own, list | tuple) else (), fillvalue=None)
        return type(given)(_with_own_code(value, other) for value, other in [*pairs][: len(given)])
    return given


def load_weights(model: nn.Module, tensors: Mapping[str, Any], source: object, *, hint: str) -> None:
    """Load the whole state of a model, and check that the model has it then; a resized buffer takes its saved shape.

    Args:
        model: The model.
        tensors: Its state by name.
        source: Their file or checkpoint, for the error.
        hint: Remedy in the error.

    Raises:
        CheckpointError: if model and source do not have the same tensors in the same shapes.
    """
    reshape_buffers(model, tensors)
    match = match_weights(model, tensors)
    match.require_complete(str(source), hint=hint)
    match.load_into(model, getattr(model.state_dict(), "_metadata", None))
    after = model.state_dict()
    if differ := [name for name, value in match.fitting.items() if not _is_same(after.get(name), value)]:
        raise _not_taken(differ)


def _is_same(found: Any, loaded: Any) -> bool:
    """Compare bit by bit; a tensor may have been converted to the type of the model's own."""
    if isinstance(found, Tensor) and isinstance(loaded, Tensor):
        return found.shape == loaded.shape and torch.equal(_bytes_of(found), _bytes_of(loaded.to(found.dtype)))
    return encode_state({"": found}) == encode_state({"": loaded})


def _bytes_of(tensor: Tensor) -> Tensor:
    return local(tensor).cpu().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)


def _place(tensor: Any) -> object:
    """Return a key that is equal for two names of the same tensor, such as tied weights."""
    if not isinstance(tensor, Tensor) or not tensor.numel() or tensor.layout is not torch.strided:
        return object()
    if is_sharded(tensor):
        return object() if not local(tensor).numel() else (local(tensor).data_ptr(), tensor.shape)
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg())


_LOG = logging.getLogger("noether.models")


def reshape_buffers(model: nn.Module, tensors: Mapping[str, Any], *, filled: bool = True) -> None:
    """Give persistent buffers the shapes and types of saved ones: modules may resize them while they train.

    Args:
        model: The model; its buffers may begin as None.
        tensors: Saved tensors by their names in the model.
        filled: False to leave buffers that begin with values, and so with a shape that the model depends on.
    """
    slots = [(module, key) for module in model.modules() for key in module._buffers]
    absent = [(module, key) for module, key in slots if module._buffers[key] is None]
    for module, key in absent:
        module._buffers[key] = torch.empty(0)  # state_dict leaves None out, and so its name
    named = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    reshaped: dict[str, Tensor] = {}
    for module, key in slots:
        buffer, is_absent = module._buffers[key], (module, key) in absent
        assert buffer is not None, "all of them are tensors now"
        name = named.get(id(buffer), "")
        saved = tensors.get(name)
        if not isinstance(saved, Tensor) or is_lazy(buffer) or (buffer.numel() and not filled):
            module._buffers[key] = None if is_absent else buffer
        elif is_absent or (buffer.shape, buffer.dtype) != (saved.shape, saved.dtype):
            if buffer.numel():
                _LOG.warning(
                    "buffer %s has %s in the checkpoint and %s in a new model", name, _kind(saved), _kind(buffer)
                )
            device = _device_of(model) if is_absent else buffer.device
            module._buffers[key] = reshaped.setdefault(name, torch.empty_like(saved, device=device))


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


WHOLE = "composite_model"
"""First part of a path in `model_paths`, for the model itself, unless it has a part of that name."""


def _below(path: str | None, names: Iterable[str]) -> list[str]:
    return [name for name in names if path is None or name == path or name.startswith(f"{path}.")]


def _within_the_model(path: str | None) -> str | None:
    """Return a path without `composite_model`, which may stand for the model itself; None for the whole model."""
    return None if path is None or path == WHOLE else path.removeprefix(f"{WHOLE}.")


class LiveWeights:
    """Parameters and persistent buffers of a model or one of its parts, under the names of its `state_dict`.

    Args:
        model: The model.
        path: Prefix of the names, such as `encoder` or `composite_model.encoder`; None for the whole model.

    Attributes:
        parameters: Parameters that can be averaged, by name; a tied one under its first name only.
        aliases: Other names of tied tensors, each with the first name.

    Raises:
        SpecError: if no name starts with the path.
    """

    def __init__(self, model: nn.Module, path: str | None = None) -> None:
        self._model, self._path = model, path
        self.parameters: dict[str, nn.Parameter] = {}
        self.aliases: dict[str, str] = {}
        self._copied: dict[str, _Slot] = {}
        for name, tensor in self._find().items():
            if isinstance(tensor, nn.Parameter) and name not in self._copied:
                self.parameters[name] = tensor

    def _find(self) -> dict[str, Tensor]:
        """Return the tensors by their first names; those to copy get their slots, the other names become aliases."""
        self._present = self._buffers()
        slots, named = _slots(self._model), dict(self._model.named_parameters(remove_duplicate=False))
        saved = self._model.state_dict(keep_vars=True)  # a model that overrides it may return copies
        saved = {name: value if id(value) in slots else named.get(name, value) for name, value in saved.items()}
        state = {
            name: value  # a module's extra state is neither averaged nor exchanged
            for name, value in saved.items()
            if isinstance(value, nn.Parameter) or id(value) in slots
        }
        path = self._path
        chosen = _below(path, state) or _below(_within_the_model(path), state)
        if not chosen:
            parts = dict.fromkeys(name.split(".", 1)[0] for name in state)
            raise SpecError(
                f"unknown path in model_paths: found {path!r}, expected a prefix of the model's weight names",
                hint=f"the parts of the model are {', '.join(parts)}",
            )
        first_names: dict[int, str] = {}
        for name in chosen:
            first_names.setdefault(id(state[name]), name)
        firsts = {name: first_names[id(state[name])] for name in chosen}
        self.aliases = {name: first for name, first in firsts.items() if first != name}
        found = {name: state[name] for name in first_names.values()}
        self._copied = {name: slots[id(tensor)] for name, tensor in found.items() if id(tensor) in slots}
        return found

    def copied(self) -> dict[str, Tensor]:
        """Return the current buffers and parameters without an average by name.

        A module may replace such a tensor at any time, by one of another shape as well.
        """
        return {name: tensor for name, (owner, key) in self._copied.items() if (tensor := owner[key]) is not None}

    def find_late(self) -> None:
        """Find the buffers that were None so far, or were not there."""
        if self._present != self._buffers():
            self._find()

    def _buffers(self) -> frozenset[tuple[int, str]]:
        return frozenset(
            (id(module), key)
            for module in self._model.modules()
            for key, buffer in module._buffers.items()
            if buffer is not None
        )

    def put_copied(self, tensors: dict[str, Tensor]) -> None:
        """Replace the tensors that `copied` returns."""
        for name, tensor in tensors.items():
            owner, key = self._copied[name]
            owner[key] = tensor


def shares_memory(model: nn.Module) -> bool:
    """Return True if tensors of the model lie over each other, or are sharded, so that new storage would part them."""
    if any(map(is_sharded, model.parameters())):
        return True
    return sharing({**dict(model.named_parameters()), **dict(model.named_buffers())}) is not None


_Slot: TypeAlias = tuple[dict[str, Any], str]
"""The buffers or parameters of a module, and a key in them."""


def _slots(model: nn.Module) -> dict[int, _Slot]:
    """Return the places of buffers, and of parameters that are copied like them, by the id of the tensor."""
    owners = [owner for module in model.modules() for owner in (module._buffers, module._parameters)]
    return {
        id(tensor): (owner, key)
        for owner in owners
        for key, tensor in owner.items()
        if isinstance(tensor, Tensor) and not (isinstance(tensor, nn.Parameter) and _has_average(tensor))
    }


def _has_average(parameter: nn.Parameter) -> bool:
    """Return False for integers and booleans, and for expanded tensors, which no optimizer changes."""
    return (parameter.is_floating_point() or parameter.is_complex()) and not is_expanded(parameter)
