"""`[sweep]`: the values that a sweep tries, and the settings of the sweep itself. No torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from noether.config.components import SpecTable

SETTINGS = "settings"
"""Key of the table of settings: no path of a spec has this name."""
DRAWS = ("uniform", "log_uniform", "int_uniform", "choice")
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
