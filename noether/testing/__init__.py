"""Test kit for Noether and its plugins: contracts, builders of small real objects instead of fakes, a pytest plugin.

Names are imported when they are first used: pytest loads its plugin from here at every start, and pays for no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from noether.testing.builders import RecordingDevice as RecordingDevice
    from noether.testing.builders import TinyData as TinyData
    from noether.testing.builders import make_callback as make_callback
    from noether.testing.builders import make_counter as make_counter
    from noether.testing.builders import make_data as make_data
    from noether.testing.builders import make_model as make_model
    from noether.testing.builders import make_trainer as make_trainer
    from noether.testing.builders import tiny_spec as tiny_spec
    from noether.testing.contract import Contract as Contract
    from noether.testing.observers import CallbackContract as CallbackContract
    from noether.testing.observers import CommandContract as CommandContract
    from noether.testing.observers import RunPluginContract as RunPluginContract
    from noether.testing.observers import TrackerContract as TrackerContract
    from noether.testing.parts import CollatorContract as CollatorContract
    from noether.testing.parts import DatasetContract as DatasetContract
    from noether.testing.parts import InitializerContract as InitializerContract
    from noether.testing.parts import LossContract as LossContract
    from noether.testing.parts import ModelContract as ModelContract
    from noether.testing.parts import OptimizerContract as OptimizerContract
    from noether.testing.parts import ScheduleContract as ScheduleContract
    from noether.testing.parts import TrainerContract as TrainerContract
    from noether.testing.parts import TransformContract as TransformContract
    from noether.testing.ranks import RankError as RankError
    from noether.testing.ranks import run_on_ranks as run_on_ranks
    from noether.testing.ranks import started_ranks as started_ranks

_HOMES = {
    "contract": ("Contract",),
    "builders": (
        "RecordingDevice",
        "TinyData",
        "make_callback",
        "make_counter",
        "make_data",
        "make_model",
        "make_trainer",
        "tiny_spec",
    ),
    "observers": ("CallbackContract", "CommandContract", "RunPluginContract", "TrackerContract"),
    "parts": (
        "CollatorContract",
        "DatasetContract",
        "InitializerContract",
        "LossContract",
        "ModelContract",
        "OptimizerContract",
        "ScheduleContract",
        "TrainerContract",
        "TransformContract",
    ),
    "ranks": ("RankError", "run_on_ranks", "started_ranks"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)  # the names above


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'noether.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"noether.testing.{_HOME_OF[name]}"), name)
