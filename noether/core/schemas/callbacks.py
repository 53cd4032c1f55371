"""Documented import path of the callbacks' base configs."""

from noether.config.components import CallBackBaseConfig, PeriodicDataIteratorCallbackConfig

__all__ = ["CallBackBaseConfig", "PeriodicDataIteratorCallbackConfig"]
