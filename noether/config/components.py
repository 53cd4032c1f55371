"""Base configs by role: callbacks, collators, data sets, losses, models, optimizers, schedules, trackers and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from noether.config.base import _RegistryBase
from noether.config.discriminated import Discriminated


class SpecTable(BaseModel):
    """A table of a spec without a kind, Noether's own or a plugin's: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


class SamplingTable(SpecTable):
    """`[trainer.sampling]`: an order of training other than each sample once. Evaluation does not change.

    An epoch keeps its length: as many samples as the training set has.
    """

    kind: Literal["weighted", "balanced", "buckets"] = Field(
        description="`weighted`: draw each sample in proportion to its weight. `balanced`: draw every class equally "
        "often. `buckets`: each sample once, samples of similar size in the same update, so that less is padded.",
    )
    by: str = Field(
        examples=["label_target", "points"],
        description="Property of the samples, before transforms, that holds the weight, the class or the size; for "
        "buckets its length where it has an entry a point. With `path`, a column of that file.",
    )
    path: Path | None = Field(
        None,
        examples=["data/weights.csv"],
        description="File with one row for each sample of the training set, in its order: .npz, .safetensors, .parquet "
        "or .csv.",
    )
    pool: int = Field(
        50,
        ge=1,
        json_schema_extra={"unit": "updates"},
        description="Updates whose samples are sorted by size together, for buckets: more pad less, fewer mix better.",
    )

    @model_validator(mode="after")
    def _of_buckets(self) -> SamplingTable:
        is_default = self.pool == type(self).model_fields["pool"].default  # which a resolved spec has
        if self.kind != "buckets" and not is_default:
            raise ValueError(f"pool is an option of buckets: found it with kind = {self.kind!r}, expected none")
        return self


class ScheduleBaseConfig(_RegistryBase):
    """Settings of every schedule: its kind."""

    role: ClassVar[str] = "schedule"


class ParameterGroupConfig(BaseModel):
    """Training options of some of the parameters, chosen by name."""

    model_config = ConfigDict(extra="forbid")

    match: list[str] = Field(
        min_length=1,
        examples=[["encoder.*"]],
        description="Patterns of parameter names; in a part of a composite, of the names within the part.",
    )
    lr_scale: float = Field(
        1.0, gt=0, examples=[0.1], description="Factor on the learning rate, whatever the schedule makes of that."
    )
    weight_decay: float | None = Field(
        None, ge=0, examples=[0.0], description="Weight decay of the group; unset: the optimizer's."
    )
    decay_bias_and_norm: bool | None = Field(
        None, description="Apply weight decay to the group's biases and normalisation weights; unset: as the optimizer."
    )


class OptimizerBaseConfig(_RegistryBase):
    """Settings of every optimizer, beside its own options."""

    role: ClassVar[str] = "optimizer"

    schedule: Annotated[Any, Discriminated("schedule")] | None = Field(
        None, description="How the learning rate changes over training; constant if left out."
    )
    weight_decay_schedule: Annotated[Any, Discriminated("schedule")] | None = Field(
        None, description="How the weight decay changes over training; constant if left out."
    )
    clip_grad_norm: float | None = Field(
        None, gt=0, description="Scale gradients down to this global norm before each update."
    )
    clip_grad_value: float | None = Field(
        None, gt=0, description="Limit each gradient element to this absolute value before each update."
    )
    decay_bias_and_norm: bool = Field(
        False, description="Apply weight decay to biases and normalisation weights as well."
    )
    groups: list[ParameterGroupConfig] = Field(
        default_factory=list,
        examples=[[{"match": ["encoder.*"], "lr_scale": 0.1, "weight_decay": 0.0}]],
        description="Parameters with a learning rate or weight decay of their own; the first that matches counts.",
    )


class ModelBaseConfig(_RegistryBase):
    """Settings of every model, beside its own options."""

    role: ClassVar[str] = "model"

    optimizer: Annotated[Any, Discriminated("optimizer")] | None = Field(
        None,
        examples=[{"kind": "AdamW", "lr": 1e-3}],
        description="The optimizer of the model's parameters; needed where there is training.",
    )
    frozen: list[str] = Field(
        default_factory=list,
        examples=[["encoder.*"]],
        description="Patterns of parameter names that are not trained (`encoder.*`).",
    )
    checkpoint: list[str] = Field(
        default_factory=list,
        examples=[["blocks.*"]],
        description="Patterns of module names (`blocks.*`) that are recomputed in the backward pass instead of keeping "
        "their activations.",
    )


class LossBaseConfig(_RegistryBase):
    """Settings of every loss: its kind; its own options come from the signature of its function."""

    role: ClassVar[str] = "loss"


class CollatorBaseConfig(_RegistryBase):
    """Settings of every collator: its kind; its own options come from the signature of its function."""

    role: ClassVar[str] = "collator"


class DatasetBaseConfig(_RegistryBase):
    """Settings of every data set, beside its own options."""

    role: ClassVar[str] = "dataset"

    collate: Annotated[Any, Discriminated("collator")] | None = Field(
        None,
        examples=["pad", {"kind": "pad", "properties": ["points", "pressure_target"]}],
        description="Function that makes a batch of samples: stack, pad, concat, or a dotted path; stack if left out.",
    )
    transforms: list[Annotated[Any, Discriminated("transform")]] = Field(
        default_factory=list,
        examples=[[{"kind": "normalize", "properties": ["points"]}]],
        description="Transforms of this data set only, before those of the whole run.",
    )

    def compared_files(self) -> Sequence[Path] | None:
        """Return the files that hold the data, which a resume compares; None for those that the options name."""
        return None

    def categories_by_name(self) -> Mapping[str, Sequence[str]]:
        """Return the names of categories by the column that holds them; the place of a name is its number."""
        return {}

    def class_names(self, property_name: str) -> Sequence[str] | None:
        """Return the names of the classes of a property that holds one class number a sample; None for others."""
        return None


class TransformBaseConfig(_RegistryBase):
    """Settings of every transform: its kind."""

    role: ClassVar[str] = "transform"


class InitializerConfig(_RegistryBase):
    """Settings of every initializer: its kind."""

    role: ClassVar[str] = "initializer"


class TrackerBaseConfig(_RegistryBase):
    """Settings of every tracker, beside its own options."""

    role: ClassVar[str] = "tracker"

    required: bool = Field(
        False, description="Fail the run where this tracker cannot be reached, refuses, or lacks something at the end."
    )
    flush_timeout_s: float = Field(
        30.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds that the end of a run waits for this tracker, 5 at most after a signal.",
    )


class CallBackBaseConfig(_RegistryBase):
    """Settings of every callback.

    A spec has to give exactly one interval unless the class says otherwise; an object built by hand may have
    several.
    """

    role: ClassVar[str] = "callback"
    needs_interval: ClassVar[bool] = True
    """True if a spec has to give an interval; False for one-shot defaults and fixed stoppers."""
    children_need_interval: ClassVar[bool] = True
    """True if nested callbacks have their own intervals; False if the parent triggers them."""

    id: str | None = Field(
        None,
        examples=["val"],
        description="Unique name of this callback: its key in checkpoints, logs, profiles and overrides. If left out, "
        "its short kind, with -2, -3 where another one has that.",
    )
    name: str | None = Field(
        None, examples=["CheckpointCallback"], description="Name of the callback's class; `kind` says the same."
    )
    every_n_epochs: int | None = Field(None, ge=1, examples=[1], description="Epochs between two calls.")
    every_n_updates: int | None = Field(None, ge=1, examples=[100], description="Updates between two calls.")
    every_n_samples: int | None = Field(
        None, ge=1, examples=[10_000], description="Training samples between two calls."
    )
    batch_size: int | None = Field(
        None, ge=1, examples=[256], description="Batch size of the callback's own passes over data."
    )


class PeriodicDataIteratorCallbackConfig(CallBackBaseConfig):
    """Settings of every callback that goes through a data set."""

    dataset_key: str | None = Field(
        None, examples=["test"], description="Key of the data set to go through; unset: the first one."
    )
    max_size: int | None = Field(
        None,
        ge=1,
        examples=[1000],
        json_schema_extra={"unit": "samples"},
        description="Largest number of samples of a pass; unset: all.",
    )
    properties: list[str] | None = Field(
        None,
        examples=[["points", "pressure_target"]],
        description="Properties of a sample to load; unset: all.",
    )


SWEEP_SETTINGS = "settings"
"""Key of the table of settings: no path of a spec has this name."""
SWEEP_DRAWS = ("uniform", "log_uniform", "int_uniform", "choice")
"""Keys of a table that stands for a value to draw."""


class SweepSettings(SpecTable):
    """`[sweep.settings]`: how many trials a sweep has, how their values are chosen, and what is compared."""

    name: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        max_length=80,
        examples=["lr-and-width"],
        description="Name of the sweep; its runs are named `<name>-001` and so on. The name of the spec if left out.",
    )
    method: Literal["grid", "random", "optuna"] | None = Field(
        None,
        description="Choice of values: every combination, draws by seed and number of the trial, or a sampler of "
        "Optuna. If left out: grid if all values are lists, else random.",
    )
    trials: int | None = Field(
        None, ge=1, examples=[20], description="Number of trials; a grid has one for each combination."
    )
    metric: str | None = Field(
        None,
        examples=["rmse/test/elevation"],
        description="Key of the metric that trials are compared by. If left out: that of the first best-checkpoint or "
        "metric-early-stopper, else the first metric of an evaluation.",
    )
    direction: Literal["lower", "higher"] | None = Field(
        None, description="The better direction of the metric, if its name and its callback do not say it."
    )
    value: Literal["final", "best"] = Field(
        "final", description="Value of the metric that counts: that of the end of the run, or the best one."
    )
    seed: int = Field(0, ge=0, description="Seed of the draws; the seed of the runs is that of the spec.")
    processes: int = Field(1, ge=1, examples=[4], description="Trials that run at once; they share the cores.")
    sampler: str | dict[str, Any] = Field(
        "TPE",
        examples=["CmaEs", {"kind": "TPE", "n_startup_trials": 5}],
        description='Sampler of Optuna, for `method = "optuna"`: the name of its class, with its options in a table.',
    )
    pruner: str | dict[str, Any] | None = Field(
        None,
        examples=["Median", {"kind": "SuccessiveHalving", "min_resource": 2}],
        description="Pruner of Optuna, which ends trials that fall behind; none if left out.",
    )


class SweepTable(SpecTable):
    """`[sweep]`: a list of values, or a draw, for each path of the spec that a sweep changes."""

    model_config = ConfigDict(extra="allow")

    settings: SweepSettings = Field(
        default_factory=SweepSettings, examples=[{"trials": 20}], description="Settings of the sweep itself."
    )
