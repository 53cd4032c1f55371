"""ModelOptimizer: a torch optimizer with clipping, schedules, and state restored by parameter name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from noether.errors import CheckpointError, TrainingError
from noether.kernel.names import listed
from noether.optim.kernels import clip_norm, clip_value, fit_to_gradients
from noether.optim.schedules import Schedule

Options = dict[str, Any]

_ELEMENTWISE = frozenset(
    {"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SGD", "RMSprop", "Adagrad", "Adadelta", "Rprop"}
)
_SHOWN = 8  # names in a message


def options_of(optimizer: Optimizer) -> list[Options]:
    """Return a copy of the options of each group, to find later changes."""
    return [
        {key: _copied(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]


def changed_options(options: Options, given: Options) -> list[str]:
    """Return the options that differ from `given`."""
    return sorted(key for key, value in options.items() if key not in given or not _equal(value, given[key]))


def restore_entries(
    optimizer: Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor], plain: Mapping[str, Mapping[str, Any]]
) -> None:
    """Load the state of each parameter, on the device that the optimizer needs.

    Args:
        optimizer: Its own options stay.
        names: Names of its parameters, in the order of its groups.
        tensors: Tensors by `<parameter>/<entry>`.
        plain: Other entries by parameter.
    """
    entries: dict[str, dict[str, Any]] = {name: dict(found) for name, found in plain.items()}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        entries.setdefault(name, {})[entry] = tensor
    _require_shapes(optimizer, names, tensors)
    by_place = {place: entries[name] for place, name in enumerate(names) if name in entries}
    groups = optimizer.param_groups
    optimizer.load_state_dict({**optimizer.state_dict(), "state": by_place})
    for group, replaced in zip(groups, optimizer.param_groups, strict=True):
        group.update(replaced)
    optimizer.param_groups = groups  # torch makes new ones, but the schedules set the values of these
    _undo_casts(optimizer, by_place)


def _require_shapes(optimizer: Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Check the tensors of optimizers that keep nothing but numbers and tensors of their parameter's shape.

    Others may fit an optimizer step by accident, and be broadcast.
    """
    if type(optimizer).__name__ not in _ELEMENTWISE:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shapes = {name: parameter.shape for name, parameter in zip(names, parameters, strict=True)}
    for key, tensor in tensors.items():
        shape = shapes.get(key.rpartition("/")[0])
        if shape is not None and tensor.ndim and tensor.shape != shape:
            raise CheckpointError(
                f"wrong shape of {key} in the optimizer's state: found {tuple(tensor.shape)}, expected "
                f"{tuple(shape)} as of its parameter"
            )


def _undo_casts(optimizer: Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """Give tensors the type back that they were saved in: torch casts them to that of their parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, entries in saved.items():
        state = optimizer.state[parameters[place]]
        for entry, value in entries.items():
            loaded = state.get(entry)
            if entry != "step" and isinstance(value, Tensor) and isinstance(loaded, Tensor):
                state[entry] = loaded if loaded.dtype is value.dtype else value.to(loaded.device)


def restore_options(optimizer: Optimizer, names: Sequence[str], saved: Sequence[Mapping[str, Any]]) -> None:
    """Put the options back that the saved run had changed since its optimizer was built.

    Args:
        optimizer: Its groups may be others than those that were saved.
        names: Names of its parameters, in the order of its groups.
        saved: The saved groups: `names`, `changed`, and the options.

    Raises:
        CheckpointError: if parameters of one group had different options.
    """
    group_of = {name: group for group in saved for name in group["names"]}
    start = 0
    for group in optimizer.param_groups:
        members = names[start : start + len(group["params"])]
        start += len(members)
        found = [{key: group_of[name][key] for key in group_of[name]["changed"]} for name in members]
        if not all(_equal(options, found[0]) for options in found[1:]):
            raise CheckpointError(
                f"wrong optimizer groups: found one group for {listed(members, _SHOWN)}, expected several as in the "
                f"checkpoint, which differ in {', '.join(sorted({key for options in found for key in options}))}",
                hint="continue with the parameter groups that the run was started with",
            )
        for key, value in found[0].items():
            group[key] = value.to(group[key].device) if isinstance(group.get(key), Tensor) else value


def require_same_class(saved: str | None, optimizer: Optimizer) -> None:
    """Check that a state was made by such an optimizer: another one has entries of other names and meanings.

    Args:
        saved: Name of the class; None if the checkpoint does not have it.
        optimizer: The optimizer that will take the state.

    Raises:
        CheckpointError: if another optimizer made it.
    """
    if saved is not None and saved != type(optimizer).__name__:
        raise CheckpointError(
            f"wrong optimizer: found {type(optimizer).__name__}, expected {saved} as in the checkpoint",
            hint=f'continue with kind = "{saved}", or take the weights alone with initializer kind = "checkpoint"',
        )


def require_same_names(saved: Collection[str], names: Collection[str]) -> None:
    """Check that a state is for these parameters.

    Raises:
        CheckpointError: if it is for others; names them.
    """
    missing, unknown = sorted(set(names) - set(saved)), sorted(set(saved) - set(names))
    parts = [
        *([f"missing {listed(missing, _SHOWN)}"] if missing else []),
        *([f"not expected {listed(unknown, _SHOWN)}"] if unknown else []),
    ]
    if parts:
        raise CheckpointError(
            f"the optimizer's state in the checkpoint is for other parameters: {'; '.join(parts)}",
            hint="continue with the model and the `frozen` patterns that the run was started with, or take the weights "
            'alone with initializer kind = "checkpoint"',
        )


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _equal(one: Any, other: Any) -> bool:
    """Compare options, which may be tensors, or tuples and dicts of them."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)


class Scheduled:
    """One value of every parameter group (`lr`, `weight_decay`) under a schedule."""

    def __init__(self, key: str, schedule: Schedule, optimizer: Optimizer) -> None:
        self.key = key
        self.schedule = schedule
        self._targets = [(group, group[key]) for group in optimizer.param_groups]

    def apply(self, update: int) -> None:
        """Set the value that is in force after `update` completed updates."""
        factor = self.schedule.factor(update)
        for group, base in self._targets:
            group[self.key] = base * factor


class ModelOptimizer:
    """A torch optimizer as the loop uses it: schedule, unscale, clip, apply, zero.

    Args:
        optimizer: The torch optimizer, its groups built.
        names: Parameter names in the order of the groups; the optimizer's state is saved under them.
        scheduled: Values under a schedule.
        clip_grad_norm: Largest global gradient norm; None leaves gradients alone.
        clip_grad_value: Largest absolute gradient entry; None leaves gradients alone.
        built_for: Total updates and updates of an epoch that the schedules assume; None if it was built by hand.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        names: Sequence[str],
        scheduled: Sequence[Scheduled] = (),
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        built_for: tuple[int, int] | None = None,
    ) -> None:
        self.torch_optimizer = optimizer
        self.names = list(names)
        self.scheduled = list(scheduled)
        self.built_for = built_for
        self.clip_grad_norm = clip_grad_norm
        self.clip_grad_value = clip_grad_value
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.last_grad_norm: torch.Tensor | None = None
        self.zero_grad = optimizer.zero_grad  # releases the gradients; torch sets them to None by default
        self.clips = clip_grad_norm is not None or clip_grad_value is not None
        self._clips_any = any(parameter.dtype.itemsize < torch.float32.itemsize for parameter in self.parameters)
        self._given = options_of(optimizer)

    @property
    def has_gradients(self) -> bool:
        """True if the backward pass has reached any of its parameters."""
        return any(parameter.grad is not None for parameter in self.parameters)

    @property
    def lr(self) -> float:
        """The learning rate of parameters outside of all groups of the spec; of the first group if there are none."""
        return float(self.torch_optimizer.param_groups[0]["lr"])

    def schedule_step(self, update: int) -> None:
        """Set learning rate and weight decay from the completed updates."""
        for scheduled in self.scheduled:
            scheduled.apply(update)

    def fit_to_gradients(self) -> None:
        """Leave a kernel that does not suit the first gradients; called before the first optimizer step."""
        fit_to_gradients(self.torch_optimizer, [p.grad for p in self.parameters if p.grad is not None])

    def clip(self) -> None:
        """Clip the gradients; the norm before clipping stays on the device as `last_grad_norm`."""
        if not self._clips_any:
            try:
                if self.clip_grad_value is not None:
                    torch.nn.utils.clip_grad_value_(self.parameters, self.clip_grad_value)
                if self.clip_grad_norm is not None:
                    self.last_grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_grad_norm)
                return
            except NotImplementedError:  # for sparse gradients; nothing was scaled yet
                self._clips_any = True
        if self.clip_grad_value is not None:
            clip_value(self.parameters, self.clip_grad_value)
        if self.clip_grad_norm is not None:
            self.last_grad_norm = clip_norm(self.parameters, self.clip_grad_norm)

    def step(self, grad_scaler: torch.amp.GradScaler | None = None) -> None:
        """Clip and apply the gradients, which a scaler has unscaled before.

        Raises:
            TrainingError: if the optimizer takes no sparse gradients, or only such.
        """
        if self.clips:
            self.clip()
        try:
            if grad_scaler is None:
                self.torch_optimizer.step()
            elif self.has_gradients:  # a scaler refuses an optimizer that it has seen no gradients of
                grad_scaler.step(self.torch_optimizer)
        except RuntimeError as error:
            if "sparse" not in str(error).lower():
                raise
            raise self._wrong_gradients(error) from error

    def _wrong_gradients(self, error: RuntimeError) -> TrainingError:
        named = [(name, p.grad) for name, p in zip(self.names, self.parameters, strict=True) if p.grad is not None]
        sparse = listed([name for name, gradient in named if gradient.is_sparse], _SHOWN)
        dense = listed([name for name, gradient in named if not gradient.is_sparse], _SHOWN)
        return TrainingError(
            f"the optimizer {type(self.torch_optimizer).__name__} cannot use these gradients: found sparse ones of "
            f"{sparse or 'no parameter'} and dense ones of {dense or 'no parameter'}: {error}",
            hint="set sparse = False for the embedding; or choose SGD or Adagrad, which take both kinds",
        )

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return the state as flat tensors named `<parameter name>/<entry>`, for a checkpoint."""
        tensors = {}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            for entry, value in self.torch_optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}/{entry}"] = value
        return tensors

    def state_values(self) -> dict[str, Any]:
        """Return all that is not a tensor: class, options of each group, plain entries of the state by parameter name.

        A group's `changed` names the options that are not as they were when the optimizer was built, those aside that
        a schedule sets.
        """
        under_schedule = {scheduled.key for scheduled in self.scheduled}
        groups, start = [], 0
        for group, given in zip(self.torch_optimizer.param_groups, self._given, strict=True):
            end = start + len(group["params"])
            options = {key: value for key, value in group.items() if key != "params"}
            changed = [key for key in changed_options(options, given) if key not in under_schedule]
            groups.append({"names": self.names[start:end], "changed": changed, **options})
            start = end
        plain = {
            name: {
                entry: value
                for entry, value in self.torch_optimizer.state.get(parameter, {}).items()
                if not isinstance(value, torch.Tensor)
            }
            for name, parameter in zip(self.names, self.parameters, strict=True)
        }
        return {
            "class": type(self.torch_optimizer).__name__,
            "groups": groups,
            "state": {name: entries for name, entries in plain.items() if entries},
        }

    def load_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Take back what `state_tensors` and `state_values` returned; parameters may come in another order.

        Options of the groups (`lr`, `betas`, …) stay those that this optimizer was built with, so that a changed spec
        counts; but one that the saved run had changed itself, by a callback or because the optimizer keeps its progress
        there, is state and comes back. What a schedule sets follows from the update alone.

        Raises:
            CheckpointError: if the state is for other parameters, or for another optimizer; names them.
        """
        require_same_class(values.get("class"), self.torch_optimizer)
        saved = values["groups"]
        require_same_names([name for group in saved for name in group["names"]], self.names)
        restore_entries(self.torch_optimizer, self.names, tensors, values["state"])
        restore_options(self.torch_optimizer, self.names, saved)
