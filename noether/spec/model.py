"""`RunSpec`: the tables of a spec and what they may hold."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from noether.config.discriminated import Discriminated
from noether.spec.locate import TomlPath
from noether.spec.migrations import newest_version
from noether.spec.read.reference import KeptReference

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LONGEST_NAME = 80
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class SpecTable(BaseModel):
    """A table of the spec that is Noether's own: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


class LoaderTable(SpecTable):
    """`[loader]`: how samples reach the trainer."""

    num_workers: int = Field(0, ge=0, description="Worker processes that load samples; 0 loads in the run's own.")
    prefetch_factor: int | None = Field(
        None, ge=1, examples=[8], description="Batches that each worker prepares in advance; 4 if left out."
    )
    pin_memory: bool | None = Field(None, description="Load into page-locked memory; on with CUDA if left out.")
    start_method: Literal["fork", "forkserver", "spawn"] | None = Field(
        None, examples=["forkserver"], description="How worker processes are started; as Python does if left out."
    )
    timeout: float = Field(
        600.0,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "seconds"},
        description="How long to wait for a batch of a worker; one that hangs ends the run then.",
    )


class PluginsTable(SpecTable):
    """`[plugins]`: which run plugins take part."""

    use: list[str] = Field(
        default_factory=list, examples=[["gpu-meter"]], description="Names of the run plugins, in their order."
    )


class CheckpointsTable(SpecTable):
    """`[checkpoints]`: which checkpoints stay, and what happens when one cannot be saved."""

    keep_last: int = Field(3, ge=1, description="How many of the newest checkpoints to keep.")
    keep_every: int | None = Field(
        None, ge=1, examples=[10_000], description="Keep checkpoints whose update is a multiple of this as well."
    )
    on_save_error: Literal["warn", "raise"] = Field(
        "raise",
        description="When the disk refuses a save: end the run, or warn and try again at the next one, up to 3 times "
        "in a row. The last save of a run always has to succeed.",
    )
    asynchronous: bool = Field(
        False,
        description="Go on with training while a checkpoint is written. It takes memory for a copy of what is saved. "
        "One is written at a time, the next waits for it; the last one of a run is written before the run ends.",
    )


class Expectation(SpecTable):
    """What a final metric has to be for the run to count as successful."""

    min: float | None = Field(None, allow_inf_nan=False, examples=[0.95], description="The metric is at least this.")
    max: float | None = Field(None, allow_inf_nan=False, examples=[0.05], description="The metric is at most this.")
    equals: float | None = Field(
        None, allow_inf_nan=False, examples=[42.0], description="The metric is this, within `tolerance`."
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        examples=[0.001],
        description="How far from `equals` the metric may be; 0 if left out.",
    )

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.min is None and self.max is None and self.equals is None:
            raise ValueError("expected at least one of min, max, equals")
        if self.tolerance is not None and self.equals is None:
            raise ValueError("tolerance goes with equals, which is missing")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is greater than max ({self.max}), so no metric fits")
        return self


class RunSpec(SpecTable):
    """A whole run: everything that `noether run` does is said here."""

    spec: int = Field(
        newest_version(), json_schema_extra={"const": newest_version()}, description="Version of the format."
    )
    extends: list[str] = Field(
        default_factory=list,
        exclude=True,  # a resolved spec is a single file
        examples=[["base.toml"]],
        description="Files below this one, the first lowest; their paths are relative to this file.",
    )
    name: str = Field(
        examples=["wing-pressure"],
        description="Name of the run; its run ids begin with it. The file's name if left out.",
    )
    seed: int = Field(
        0, ge=0, examples=[7], description="Decides everything random: weights, order of samples, augmentation."
    )
    device: str = Field("auto", examples=["cuda:1"], description="auto, cpu, cuda, cuda:N or mps.")
    output: str = Field("runs", description="Folder that holds one folder a run, relative to the working folder.")
    threads: int | None = Field(
        None, ge=1, examples=[4], description="CPU threads of PyTorch; its own choice if left out."
    )
    deterministic: bool = Field(False, description="Use only operations that give the same bits every time.")
    matmul_precision: Literal["highest", "high", "medium"] | None = Field(
        None, description="Precision of float32 matrix products; PyTorch's default if left out."
    )
    datasets: dict[str, Annotated[Any, Discriminated("dataset")]] = Field(
        default_factory=dict,
        examples=[{"train": {"kind": "digits", "split": "train"}}],
        description="Data sets by key; `train` is the one to train on.",
    )
    transforms: list[Annotated[Any, Discriminated("transform")]] = Field(
        default_factory=list,
        examples=[[{"kind": "normalize", "properties": ["points"]}]],
        description="Transforms of all data sets; their statistics come from `train`.",
    )
    loader: LoaderTable = Field(
        default_factory=LoaderTable, examples=[{"num_workers": 2}], description="How samples reach the trainer."
    )
    model: Annotated[Any, Discriminated("model")] = Field(
        examples=[{"kind": "mlp", "hidden": [64, 64]}], description="The model, with its optimizer."
    )
    trainer: Annotated[Any, Discriminated("trainer")] = Field(
        examples=[{"kind": "weighted-loss", "max_epochs": 10}], description="How to train, with the callbacks."
    )
    trackers: list[Annotated[Any, Discriminated("tracker")]] | None = Field(
        None,
        examples=[[{"kind": "noop"}]],
        description="Where metrics go beside the run folder; MLflow with its defaults if left out.",
    )
    plugins: PluginsTable = Field(
        default_factory=PluginsTable, examples=[{"use": ["gpu-meter"]}], description="Which run plugins take part."
    )
    checkpoints: CheckpointsTable = Field(
        default_factory=CheckpointsTable, examples=[{"keep_last": 5}], description="Which checkpoints stay."
    )
    expect: dict[str, Expectation] = Field(
        default_factory=dict,
        examples=[{"loss/test/total": {"max": 0.05}}],
        description="Bounds on final metrics by metric key; the run fails where one breaks.",
    )
    initializer: Annotated[Any, Discriminated("initializer")] | None = Field(
        None,
        examples=[{"kind": "my_project.weights.Pretrained"}],
        description="Where the state comes from that training begins with, if not from the seed; `initializer` under "
        "[trainer] means the same.",
    )
    resolved: dict[str, Any] | None = Field(
        None, description="Written by Noether into resolved specs: versions and origins. Ignored when read."
    )

    _references: dict[TomlPath, KeptReference] = PrivateAttr(default_factory=dict)

    @field_validator("spec")
    @classmethod
    def _spec_is_migrated(cls, spec: int) -> int:
        if spec != newest_version():
            raise ValueError(f"expected {newest_version()}")
        return spec

    @field_validator("extends")
    @classmethod
    def _extends_was_followed(cls, extends: list[str]) -> list[str]:
        if extends:
            raise ValueError("a file says what it extends, an override cannot")
        return extends

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("expected lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit")
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"expected at most {_LONGEST_NAME} characters, since folders are named so")
        return name

    @field_validator("device")
    @classmethod
    def _device_exists(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise ValueError("expected auto, cpu, mps, cuda or cuda:N")
        return device

    @field_validator("resolved")
    @classmethod
    def _resolved_is_ignored(cls, resolved: dict[str, Any] | None) -> None:
        return None
