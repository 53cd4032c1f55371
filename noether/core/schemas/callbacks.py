"""The configs that callbacks build theirs on: when to run, and for some which data set to go through."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from noether.core.schemas.registry_base import _RegistryBase


class CallBackBaseConfig(_RegistryBase):
    """What every callback can be told.

    A spec has to give exactly one interval unless the class says otherwise; an object built by hand may have
    several.
    """

    role: ClassVar[str] = "callback"
    needs_interval: ClassVar[bool] = True
    """Whether a spec has to give an interval: false for one-shot defaults and fixed stoppers."""
    children_need_interval: ClassVar[bool] = True
    """Whether nested callbacks run on intervals of their own: false where the parent triggers them."""

    id: str | None = Field(
        None,
        examples=["val"],
        description="Unique name of this callback: its key in checkpoints, logs, profiles and overrides. If left out, "
        "its short kind, with -2, -3 where another one has that.",
    )
    name: str | None = Field(
        None, examples=["CheckpointCallback"], description="Name of the callback's class; `kind` says the same."
    )
    every_n_epochs: int | None = Field(None, ge=1, examples=[1], description="Run every so many epochs.")
    every_n_updates: int | None = Field(
        None, ge=1, examples=[100], description="Run every so many updates (optimizer steps)."
    )
    every_n_samples: int | None = Field(
        None, ge=1, examples=[10_000], description="Run every so many training samples."
    )
    batch_size: int | None = Field(
        None, ge=1, examples=[256], description="Batch size of the callback's own passes over data."
    )


class PeriodicDataIteratorCallbackConfig(CallBackBaseConfig):
    """What a callback that goes through a data set can be told beside its interval."""

    dataset_key: str | None = Field(None, examples=["test"], description="Which of the spec's data sets to go through.")
    max_size: int | None = Field(
        None,
        ge=1,
        examples=[1000],
        json_schema_extra={"unit": "samples"},
        description="Go through at most so many samples; all if left out.",
    )
    properties: list[str] | None = Field(
        None,
        examples=[["points", "pressure_target"]],
        description="Properties of a sample to load; all if left out.",
    )
