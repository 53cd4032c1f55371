"""ModelBase: a module that owns its optimizer; checks of its calls and its state, and evaluation mode."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from threading import Lock
from typing import Any, Self

import torch
from torch import Tensor, nn

from noether.config.components import ModelBaseConfig, OptimizerBaseConfig
from noether.errors import SpecError, placed
from noether.kernel.names import listed
from noether.optim.build import build_optimizer, matching
from noether.optim.model_optimizer import ModelOptimizer

_SHOWN = 12  # most names in a message


class ModelBase(nn.Module):
    """Base class of models that a trainer trains.

    A model is called with the forward properties of a batch as keywords, and returns a dict by field, or one tensor for
    its only field. It owns the optimizer that its config names, so that each part of a composite can have its own.

    Args:
        model_config: Config of the model; `optimizer` and `frozen` are used here.
        name: Name of the model in metrics and checkpoints.

    Attributes:
        optimizer_config: Config of the optimizer; a composite gives its own to parts that have none.
        optimizer: The optimizer once it is built; None for a model that does not train.
    """

    def __init__(self, model_config: ModelBaseConfig | None = None, *, name: str = "model") -> None:
        super().__init__()
        self.name = name
        self.model_config = model_config
        self.optimizer_config: OptimizerBaseConfig | None = model_config.optimizer if model_config else None
        self.optimizer: ModelOptimizer | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls) and (names := positional_only(cls.forward)):
            cls.forward = _by_keyword(cls.forward, names)

    @classmethod
    def infer_sizes(cls, model_config: Any, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Any:
        """Return `model_config` with sizes that the spec omits taken from the first training sample.

        Args:
            model_config: The config from the spec.
            inputs: Forward properties of the sample, without a batch dimension.
            targets: Target tensors of the sample by field, without a batch dimension.
        """
        return model_config

    def check_inputs(self, names: Sequence[str]) -> None:
        """Check before training that `forward` accepts these properties.

        Raises:
            SpecError: if it does not.
        """
        check_call(self.forward, names, by_name=True)

    @property
    def device(self) -> torch.device:
        """Device of the first parameter or buffer; cpu if there is none."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def submodels(self) -> dict[str, ModelBase]:
        """Models with an optimizer of their own: this one, or the parts of a composite."""
        return {self.name: self}

    @property
    def is_frozen(self) -> bool:
        """True if no parameter trains."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def freeze(self) -> Self:
        """Exclude the parameters that match the config's `frozen` patterns from training.

        Raises:
            SpecError: if a pattern matches no parameter.
        """
        names = dict(self.named_parameters(remove_duplicate=False))  # a tied parameter has several
        for index, pattern in enumerate(self.model_config.frozen if self.model_config else []):
            with placed("frozen", index):
                matched = matching(pattern, names, setting="`frozen` pattern", of="parameter of the model")
            for name in matched:
                names[name].requires_grad = False  # a lazy parameter has no requires_grad_
        return self

    def initialize_optimizer(self, *, total_updates: int, updates_per_epoch: int) -> None:
        """Build the optimizer for a run of this length; parameters must be on their device already.

        Raises:
            SpecError: if parameters train and the config names no optimizer.
        """
        if self.is_frozen:
            return
        with placed("optimizer"):
            self.optimizer = build_optimizer(
                self.required_optimizer_config(),
                list(self.named_parameters()),
                total_updates=total_updates,
                updates_per_epoch=updates_per_epoch,
                find=self.named_parameters,
                sparse=self.sparse_parameters(),
            )

    def sparse_parameters(self) -> list[str]:
        """Return the names of parameters whose gradients are sparse: those of sparse embeddings."""
        embeddings = [module for module in self.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
        sparse = {id(module.weight) for module in embeddings if module.sparse}
        return [name for name, parameter in self.named_parameters() if id(parameter) in sparse]

    def required_optimizer_config(self) -> OptimizerBaseConfig:
        """Return the config of the optimizer.

        Raises:
            SpecError: if there is none.
        """
        if self.optimizer_config is None:
            raise SpecError(
                f"the model '{self.name}' has no optimizer, expected one for its trainable parameters",
                hint='add `optimizer = { kind = "AdamW", lr = 1e-3 }` to [model]',
            )
        return self.optimizer_config

    def optimizer_owners(self) -> dict[str, ModelBase]:
        """Return the models that own an optimizer, or may get one, under the names of `optimizers`."""
        return {self.name: self}

    def optimizers(self) -> dict[str, ModelOptimizer]:
        """Return the optimizers of this model by submodel name."""
        return {} if self.optimizer is None else {self.name: self.optimizer}

    def gradients(self) -> list[Tensor]:
        """Return the gradients for the next optimizer step."""
        return [
            parameter.grad
            for optimizer in self.optimizers().values()
            for parameter in optimizer.parameters
            if parameter.grad is not None
        ]

    def optimizer_schedule_step(self, update: int) -> None:
        """Set learning rate and weight decay for the number of completed updates."""
        if self.optimizer is not None:
            self.optimizer.schedule_step(update)

    def optimizer_step(self, grad_scaler: torch.amp.GradScaler | None = None) -> None:
        """Clip and apply the gradients."""
        if self.optimizer is not None:
            self.optimizer.step(grad_scaler)

    def optimizer_zero_grad(self) -> None:
        """Release the gradients."""
        if self.optimizer is not None:
            self.optimizer.zero_grad()


def check_call(forward: Callable[..., Any], names: Sequence[str], *, by_name: bool) -> None:
    """Check that a model's `forward` accepts the forward properties, by name or in their order."""
    signature = inspect.signature(forward)
    takes = ", ".join(signature.parameters)
    positional = [name for name in positional_only(forward) if name in names] if by_name else names
    try:
        bound = signature.bind(*positional, **{name: name for name in names if name not in positional})
    except TypeError as error:
        raise SpecError(
            f"wrong trainer.forward_properties: found {list(names)}, expected the arguments of the model's forward "
            f"({takes}): {error}",
            hint="list the arguments of forward, each once",
        ) from error
    for argument, name in bound.arguments.items():
        if isinstance(name, str) and name in signature.parameters and name != argument:
            raise SpecError(
                f"wrong order of trainer.forward_properties: found {list(names)}, expected the order of the "
                f"arguments of the model's forward ({takes}): '{name}' would be passed as '{argument}'",
                hint="list the arguments of forward in their order",
            )


def positional_only(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments that a function takes by position only, without `self`."""
    found = inspect.signature(function).parameters.values()
    return tuple(p.name for p in found if p.kind is p.POSITIONAL_ONLY and p.name != "self")


def _by_keyword(forward: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Return a `forward` that takes its positional-only arguments by name as well."""

    @functools.wraps(forward)
    def called(self: nn.Module, *inputs: Any, **properties: Any) -> Any:
        given = inputs or tuple(properties.pop(name) for name in names if name in properties)
        return forward(self, *given, **properties)

    return called


def check_state(model: nn.Module) -> None:
    """Check before training that the state of a model can be saved and given back, with everything that trains.

    Raises:
        SpecError: if it cannot; names the module or the parameters.
    """
    for name, module in model.named_modules():
        kind = type(module)
        saves = kind.get_extra_state is not nn.Module.get_extra_state
        if saves and kind.set_extra_state is nn.Module.set_extra_state:
            raise SpecError(
                f"the extra state of module '{name}' ({kind.__name__}) cannot be given back: found get_extra_state "
                "alone, expected set_extra_state beside it",
                hint=f"define {kind.__name__}.set_extra_state(self, state)",
            )
    try:
        state = model.state_dict(keep_vars=True)
    except TypeError as error:
        raise SpecError(
            f"state_dict of the model cannot be called with keep_vars=True: {error}",
            hint="let it take *args and **kwargs, and pass them to super().state_dict",
        ) from error
    _require_trained(model, state)


def _require_trained(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Check that a state has all parameters that train; an override may return copies of them by name."""
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.layout is torch.strided]
    places = {tensor.data_ptr() for tensor in tensors}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    lost = [name for name, p in trained.items() if name not in state and p.data_ptr() not in places]
    if lost:
        raise SpecError(
            f"the state_dict of the model lacks parameters that train: found {len(trained) - len(lost)} of "
            f"{len(trained)}, expected {listed(lost, _SHOWN)} too",
            hint="let state_dict return them, or freeze them with `frozen` under [model]",
        )


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models in evaluation mode; afterwards give each module the mode that it had before, also after an error.

    One flag for a whole model is not enough: a frozen backbone that its constructor has put in evaluation mode stays
    in it. A part that is switched inside, as a callback freezes a batch norm, keeps the mode that it was given there;
    switching a whole model, as an evaluation by hand does, changes nothing for later. Nothing is called on a model
    whose modules are all in evaluation mode already.

    Args:
        *models: The models; parts that they share are switched once.
    """
    modes = {module: module.training for model in models for module in model.modules()}
    if not any(modes.values()):
        yield
        return
    former = [(model, model.training) for model in models]
    for model in models:
        model.eval()
    switched: list[tuple[nn.Module, bool]] = []
    try:
        with _recorded(switched):
            yield
    finally:
        for part, mode in switched:
            if not _is_whole(part, modes):
                modes |= dict.fromkeys((module for module in part.modules() if module in modes), mode)
        for model, mode in former:
            model.train(mode)  # modules may override it, to merge adapters for example
        for module, mode in modes.items():
            if module.training is not mode:
                module.training = mode


def _is_whole(part: nn.Module, modules: Iterable[nn.Module]) -> bool:
    """Return True if a module is a model with all of its parts, but for those that wrap it."""
    parts = set(part.modules())
    return all(module in parts or part in set(module.modules()) for module in modules)


_switches: ContextVar[list[tuple[nn.Module, bool]] | None] = ContextVar("switches", default=None)
_recorders = 0
_lock = Lock()
_train = nn.Module.train
_set_train = partial(setattr, nn.Module, "train")


def _recording_train(self: nn.Module, mode: bool = True) -> nn.Module:
    """Switch a module as torch does; its parts are switched along with it and not recorded."""
    switches = _switches.get()
    if switches is None:
        return _train(self, mode)
    switches.append((self, mode))
    token = _switches.set(None)
    try:
        return _train(self, mode)
    finally:
        _switches.reset(token)


@contextmanager
def _recorded(switches: list[tuple[nn.Module, bool]]) -> Iterator[None]:
    """Record the modules whose `train` or `eval` is called in this thread, in order."""
    global _recorders
    token = _switches.set(switches)
    with _lock:
        _recorders += 1
        _set_train(_recording_train)  # on the class: an attribute of an instance would be copied along with it
    try:
        yield
    finally:
        _switches.reset(token)
        with _lock:
            _recorders -= 1
            if not _recorders:
                _set_train(_train)
