"""Components that name their config in all supported ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from noether.config.components import CallBackBaseConfig, ModelBaseConfig
from noether.core.callbacks import PeriodicDataIteratorCallback

if TYPE_CHECKING:
    from nowhere import HiddenConfig, Other


class NoteConfig(CallBackBaseConfig):
    text: str = ""


TNoteConfig = TypeVar("TNoteConfig", bound=NoteConfig)


class Direct:
    def __init__(self, callback_config: NoteConfig, other: Other = None, **kwargs: Any): ...


class Inherited(Direct):
    pass


class PassedOn(Direct):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)


class Unannotated(Direct):
    def __init__(self, callback_config, **kwargs):
        super().__init__(callback_config, **kwargs)


class Maybe:
    def __init__(self, config: NoteConfig | None = None): ...


class Variable(Generic[TNoteConfig]):
    def __init__(self, callback_config: TNoteConfig): ...


class Hidden:
    def __init__(self, callback_config: HiddenConfig): ...


class OfAModel:
    def __init__(self, callback_config: ModelBaseConfig): ...


class NoConfig:
    def __init__(self, callback_config: dict): ...


class OfAnotherBase(PeriodicDataIteratorCallback):
    def __init__(self, callback_config: NoteConfig, **kwargs: Any): ...


class WithoutOne:
    def __init__(self, trainer: Any, model: Any): ...
