"""ModelOptimizer: a torch optimizer with clipping, schedules, groups that may grow, and state by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from noether.errors import CheckpointError, TrainingError
from noether.optim.fused import FusedStep
from noether.optim.kernels import (
    clip_norm,
    clip_norm_of_uniform,
    clip_value,
    fit_to_gradients,
    is_uniform,
    total_norm,
    whole,
    wrong_gradients,
)
from noether.optim.optimizer_state import (
    NamedEntries,
    OptimizerState,
    Options,
    Traits,
    changed_options,
    members_of,
    options_of,
    require_same_class,
    require_same_names,
    requires_closure,
    restore_attributes,
    restore_entries,
    restore_options,
)
from noether.optim.plateau import MetricSchedule
from noether.optim.schedules import Scheduled

_WEIGHT = "training_weight"  # entry of optimizers that train other weights than they evaluate


class ModelOptimizer:
    """A torch optimizer as the loop uses it: schedule, unscale, clip, apply, zero.

    Parameter groups may be added while it trains, through `torch_optimizer.add_param_group` as well: names, parameters
    and schedules follow, and a checkpoint holds what is needed to add the group again.

    Args:
        optimizer: The torch optimizer, its groups built.
        names: Parameter names in the order of the groups; the optimizer's state is saved under them.
        scheduled: Values under a schedule.
        clip_grad_norm: Largest global gradient norm; None leaves gradients alone.
        clip_grad_value: Largest absolute gradient entry; None leaves gradients alone.
        built_for: Total updates and updates of an epoch that the schedules assume; None if it was built by hand.
        find: Return the parameters of the model by name, for groups that are added.
        traits: Needs of the optimizer beside gradients.
        added: The number of groups, from the last one back, that the run and not the spec has made.

    Attributes:
        parameters: Parameters in the order of the groups.
        on_change: Called when groups were added.
        is_training: True if the parameters hold weights that are trained, and others are evaluated.
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
        find: Callable[[], Iterable[tuple[str, nn.Parameter]]] | None = None,
        traits: Traits | None = None,
        added: int = 0,
    ) -> None:
        self.torch_optimizer = optimizer
        self.scheduled, self.built_for = list(scheduled), built_for
        self.clip_grad_norm, self.clip_grad_value = clip_grad_norm, clip_grad_value
        self.traits = traits or Traits(takes_closure=requires_closure(optimizer))
        self._clips_any = False
        self._take_parameters()
        self.on_change: Callable[[], object] = lambda: None
        self.last_grad_norm: torch.Tensor | None = None
        self.clips = clip_grad_norm is not None or clip_grad_value is not None
        self._find = find or (lambda: ())
        self._names = {id(p): name for p, name in zip(self.parameters, names, strict=True)}
        self._given = options_of(optimizer.param_groups)
        self._members = members_of(optimizer)
        self._first_added = len(self._given) - added
        self._claimable: list[set[int]] = []
        self._entries = NamedEntries()
        self._add = optimizer.add_param_group
        optimizer.add_param_group = self.add_group  # type: ignore[method-assign, assignment]  # groups that a callback adds
        self._switches = all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))
        self.is_training = False
        optimizer.register_load_state_dict_post_hook(self._follow_groups)

    @property
    def names(self) -> list[str]:
        """Parameter names in the order of the groups."""
        return [self._names[id(parameter)] for parameter in self.parameters]

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

    def _follow_groups(self, optimizer: Optimizer) -> None:
        for scheduled in self.scheduled:
            scheduled.follow(optimizer.param_groups)

    def fit_to_gradients(self) -> bool:
        """Leave a kernel that does not suit the gradients; return True if one was left."""
        return fit_to_gradients(self.torch_optimizer, [p.grad for p in self.parameters if p.grad is not None])

    def clip(self) -> None:
        """Clip the gradients; the norm before clipping stays on the device as `last_grad_norm`."""
        if not self._clips_any:
            try:
                if self.clip_grad_value is not None:
                    torch.nn.utils.clip_grad_value_(self.parameters, self.clip_grad_value)
                if self.clip_grad_norm is not None:
                    gradients = [p.grad for p in self.parameters if p.grad is not None] if self._is_uniform else None
                    if gradients:
                        self.last_grad_norm = clip_norm_of_uniform(gradients, self.clip_grad_norm)
                    else:
                        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_grad_norm)
                        self.last_grad_norm = norm if type(norm) is Tensor else whole(norm)
                return
            except NotImplementedError:  # for sparse gradients; nothing was scaled yet
                self._clips_any = True
        if self.clip_grad_value is not None:
            clip_value(self.parameters, self.clip_grad_value)
        if self.clip_grad_norm is not None:
            self.last_grad_norm = clip_norm(self.parameters, self.clip_grad_norm)

    def measure(self) -> None:
        """Take the norm of gradients that are not applied as `last_grad_norm`, as `clip` would."""
        if self.clip_grad_norm is not None:
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            self.last_grad_norm = total_norm(gradients)

    def step(self, grad_scaler: torch.amp.GradScaler | None = None) -> None:
        """Clip and apply the gradients, which a scaler has unscaled before.

        Raises:
            TrainingError: if the optimizer takes no sparse gradients, or only such.
        """
        if self.clips:
            self.clip()
        try:
            if grad_scaler is None:
                if self._fused is None or not self._fused():
                    self.torch_optimizer.step()
            elif self.has_gradients:  # a scaler refuses an optimizer that it has seen no gradients of
                grad_scaler.step(self.torch_optimizer)
        except RuntimeError as error:
            if "sparse" not in str(error).lower():
                raise
            named = dict(zip(self.names, self.parameters, strict=True))
            raise wrong_gradients(self.torch_optimizer, named, error) from error

    def zero_grad(self) -> None:
        """Release the gradients, as torch's `zero_grad` does unless it is another function."""
        optimizer = self.torch_optimizer
        if type(optimizer).zero_grad is not Optimizer.zero_grad or "zero_grad" in optimizer.__dict__:
            optimizer.zero_grad()
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    # Groups that are added while it trains

    def add_group(self, group: Options) -> None:
        """Add a parameter group, as `add_param_group` does; the schedules apply to it.

        A group that a resumed run has put back already, and that a callback adds again, is left as it is.

        Raises:
            TrainingError: if a parameter is not one of the model's, or torch refuses the group.
        """
        members = group["params"]
        group = {**group, "params": [members] if isinstance(members, Tensor) else list(members)}
        tensors = [member[1] if isinstance(member, tuple) else member for member in group["params"]]
        ids = {id(tensor) for tensor in tensors}
        if ids in self._claimable:
            self._claimable.remove(ids)
            return
        place = f"parameter group {len(self._given) + 1}"
        self._name(tensors, place)
        if isinstance(self.torch_optimizer, torch.optim.LBFGS):
            raise TrainingError(f"{place} is not possible: LBFGS has one group for all parameters")
        if self.torch_optimizer.defaults.get("fused"):
            named = {self._names[id(parameter)]: parameter for parameter in [*self.parameters, *tensors]}
            options = self.traits.implementation(named)
            group = {**{kernel: options.get(kernel) for kernel in ("fused", "foreach")}, **group}
        try:
            self._add(group)
        except (TypeError, ValueError) as error:
            raise TrainingError(f"{place} cannot be added to {type(self.torch_optimizer).__name__}: {error}") from error
        self.take_up_groups()

    def _name(self, tensors: Sequence[Any], place: str) -> None:
        """Find the names of parameters that are new to the optimizer."""
        known = {id(parameter): name for name, parameter in self._find()}
        for number, tensor in enumerate(tensors, start=1):
            if id(tensor) not in self._names and id(tensor) not in known:
                raise TrainingError(
                    f"{place} cannot be saved: its parameter number {number} was not found in the model",
                    hint="make it a parameter of the model before you add the group",
                )
            self._names.setdefault(id(tensor), known.get(id(tensor), ""))

    def _take_parameters(self) -> None:
        """Read the parameters of all groups, and choose the functions that suit them."""
        self._fused = FusedStep.of(self.torch_optimizer)
        self.parameters = [parameter for group in self.torch_optimizer.param_groups for parameter in group["params"]]
        self._is_uniform = is_uniform(self.parameters)
        # The norms of small number formats would overflow in torch's clipping.
        self._clips_any = any(parameter.dtype.itemsize < torch.float32.itemsize for parameter in self.parameters)

    def take_up_groups(self) -> None:
        """Read the groups of the torch optimizer again, after some may have been added.

        Raises:
            TrainingError: if groups that were there before have other parameters.
        """
        members, known = members_of(self.torch_optimizer), len(self._members)
        if members == self._members:
            return
        if members[:known] != self._members:
            raise TrainingError(
                f"the parameter groups of {type(self.torch_optimizer).__name__} were changed by hand: found groups of "
                f"{[len(group) for group in members]} parameters, expected {[len(group) for group in self._members]}",
                hint="add a group with add_param_group of the optimizer, or with trainer.unfreeze",
            )
        groups = self.torch_optimizer.param_groups
        new = groups[known:]
        self._name([parameter for group in new for parameter in group["params"]], f"parameter group {len(groups)}")
        self._given += options_of(new)
        self._members = members
        self._take_parameters()
        for scheduled in self.scheduled:
            scheduled.include(new)
        self.on_change()

    # Optimizers that train other weights than they evaluate, and switch between them by `train` and `eval`

    def begin_training(self) -> None:
        """Give the parameters the weights that are trained."""
        if self._switches and not self.is_training:
            self.torch_optimizer.train()  # type: ignore[attr-defined]
            self.is_training = True

    def end_training(self) -> None:
        """Give the parameters the weights that are evaluated."""
        if self.is_training:
            self.torch_optimizer.eval()  # type: ignore[attr-defined]
            self.is_training = False

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Give the parameters the weights that are evaluated; afterwards exactly those that are trained.

        Going there and back by `eval` and `train` rounds, so that an evaluation would change training.
        """
        if not self.is_training:
            yield
            return
        trained = [parameter.detach().clone() for parameter in self.parameters]
        self.end_training()
        try:
            yield
        finally:
            self.begin_training()
            with torch.no_grad():
                for parameter, weight in zip(self.parameters, trained, strict=True):
                    parameter.copy_(weight)

    # State

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return the state as flat tensors named `<parameter name>/<entry>`, for a checkpoint."""
        return self.capture()[0]

    def state_values(self) -> dict[str, Any]:
        """Return all of the state that is not a flat tensor; see `capture`."""
        return self.capture()[1]

    def capture(self, prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the state as flat tensors named `<prefix><parameter name>/<entry>`, and all that is not such a tensor.

        The second are class, options of each group, and plain entries of the state by parameter name. A group's
        `changed` names the options that are not as they were when the optimizer was built, those aside that a schedule
        sets. Further parts are there only if they hold something.
        """
        self.take_up_groups()
        under_schedule = {scheduled.key for scheduled in self.scheduled}
        names, groups, start = self.names, [], 0
        for group, given in zip(self.torch_optimizer.param_groups, self._given, strict=True):
            end = start + len(group["params"])
            options = {key: value for key, value in group.items() if key != "params"}
            changed = [key for key in changed_options(options, given) if key not in under_schedule]
            groups.append({"names": names[start:end], "changed": changed, **options})
            start = end
        state = OptimizerState.of(self.torch_optimizer)
        tensors, plain = self._entries.split(state.entries, names, prefix)
        if self.is_training:
            tensors |= {f"{prefix}{name}/{_WEIGHT}": p.detach() for name, p in zip(names, self.parameters, strict=True)}
        further = {
            "whole": state.whole,
            "own": state.own,
            "added": self._given[self._first_added :],
            "frozen": [n for n, parameter in zip(names, self.parameters, strict=True) if not parameter.requires_grad],
            "attributes": {name: getattr(self.torch_optimizer, name) for name in self.traits.attributes},
            "schedules": {key: schedule.state_dict() for key, schedule in self.metric_schedules().items()},
        }
        return tensors, {
            "class": type(self.torch_optimizer).__name__,
            "groups": groups,
            "state": plain,
            **{key: value for key, value in further.items() if value},
        }

    def load_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Take back what `state_tensors` and `state_values` returned; parameters may come in another order.

        Options of the groups (`lr`, `betas`, …) stay those that this optimizer was built with, so that a changed spec
        counts; but one that the saved run had changed itself, by a callback or because the optimizer keeps its progress
        there, is state and comes back. So do groups that the run had added. What a schedule sets follows from the
        update alone.

        Raises:
            CheckpointError: if the state is for other parameters, or for another optimizer; names them.
        """
        require_same_class(values.get("class"), self.torch_optimizer)
        saved = values["groups"]
        self._add_saved(saved, values.get("added", ()))
        require_same_names([name for group in saved for name in group["names"]], self.names)
        weights = {key.rpartition("/")[0]: tensor for key, tensor in tensors.items() if key.endswith(f"/{_WEIGHT}")}
        others = {key: tensor for key, tensor in tensors.items() if not key.endswith(f"/{_WEIGHT}")}
        restore_entries(self.torch_optimizer, self.names, others, values)
        restore_options(self.torch_optimizer, self.names, saved)
        self.is_training = self._switches and bool(weights)
        frozen = values.get("frozen", ())
        with torch.no_grad():
            for name, parameter in zip(self.names, self.parameters, strict=True):
                parameter.requires_grad_(name not in frozen)
                if name in weights:
                    parameter.copy_(weights[name])
        saved_attributes = values.get("attributes", {})
        attributes = {name: saved_attributes[name] for name in self.traits.attributes if name in saved_attributes}
        restore_attributes(self.torch_optimizer, attributes)
        schedules = self.metric_schedules()
        for key, state in values.get("schedules", {}).items():
            if key in schedules:
                schedules[key].load_state_dict(state)

    def _add_saved(self, saved: Sequence[Mapping[str, Any]], added: Sequence[Options]) -> None:
        """Add the groups that the saved run had added, unless their parameters are trained already."""
        known, found = set(self.names), dict(self._find())
        for group, given in zip(saved[len(saved) - len(added) :], added, strict=True):
            if known.issuperset(group["names"]):
                continue
            if missing := [name for name in group["names"] if name not in found]:
                raise CheckpointError(
                    f"the model lacks parameters of a group that the saved run had added: {', '.join(missing)}",
                    hint="make them in the model's constructor, so that a resumed run has them",
                )
            parameters = [found[name].requires_grad_(True) for name in group["names"]]
            self.add_group({**given, "params": parameters})
            self._claimable.append({id(parameter) for parameter in parameters})

    def metric_schedules(self) -> dict[str, MetricSchedule]:
        """Return the schedules that follow a metric, by the value that they set."""
        return {one.key: one.schedule for one in self.scheduled if isinstance(one.schedule, MetricSchedule)}
