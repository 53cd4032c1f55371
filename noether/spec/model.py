"""`RunSpec`: the tables of a spec and their fields; its resolved form has every default written out."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Literal, Self

import tomli_w
from pydantic import BaseModel, Field, PrivateAttr, field_validator, model_validator

from noether.config.components import SpecTable, SweepTable
from noether.config.discriminated import Discriminated
from noether.config.parameters import survives
from noether.config.secrets import KeptReference, mask
from noether.kernel.entries import PLUGIN, Component
from noether.kernel.registry import active_registry
from noether.spec.errors.words import toml_path
from noether.spec.fields import components_in, configs_in, item_at
from noether.spec.locate import TomlPath
from noether.spec.read.document import plain

VERSION = 1
"""Version of the format of specs."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LONGEST_NAME = 80
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://(?!.*::)[^?#\s]+")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class LoaderTable(SpecTable):
    """`[loader]`: loading of samples."""

    num_workers: int = Field(0, ge=0, description="Worker processes that load samples; 0 loads in the run's own.")
    prefetch_factor: int | None = Field(
        None, ge=1, examples=[8], description="Batches that each worker prepares in advance; 4 if left out."
    )
    pin_memory: bool | None = Field(
        None, description="Load into page-locked memory, if there is an accelerator; on with CUDA if left out."
    )
    device_resident: bool | Literal["auto"] = Field(
        False,
        description="Keep the data sets in the memory of the device and gather batches there: auto if they fit and are "
        "rows of tensors. Order and batches stay the same. It changes nothing on a CPU.",
    )
    start_method: Literal["fork", "forkserver", "spawn"] | None = Field(
        None, examples=["forkserver"], description="Start method of worker processes; Python's default if left out."
    )
    timeout: float = Field(
        600.0,
        gt=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "seconds"},
        description="Longest wait for a batch of a worker process; then the run ends.",
    )
    limit_batches: int | None = Field(
        None,
        ge=1,
        examples=[2],
        description="Most updates of an epoch, and most batches of an evaluation pass on each rank: a quick trial of "
        "the whole run. All if left out.",
    )
    overfit_one_batch: bool = Field(
        False,
        description="Train on the first update's samples again and again, which are an epoch then: a test of whether "
        "the model can learn.",
    )


class PluginsTable(SpecTable):
    """`[plugins]`: the run plugins of a run."""

    use: list[str] = Field(
        default_factory=list, examples=[["gpu-meter"]], description="Names of the run plugins, in their order."
    )


class CheckpointsTable(SpecTable):
    """`[checkpoints]`: retention of checkpoints, and the reaction to a failed save."""

    keep_last: int = Field(3, ge=1, description="Number of newest checkpoints to keep.")
    keep_every: int | None = Field(
        None, ge=1, examples=[10_000], description="Also keep checkpoints whose update is a multiple of this."
    )
    on_save_error: Literal["warn", "raise"] = Field(
        "raise",
        description="After a failed save: end the run, or warn and try again at the next save, up to 3 times in a row. "
        "The last save of a run must succeed.",
    )
    asynchronous: bool = Field(
        False,
        description="Continue training while a checkpoint is written. It needs memory for a copy of the saved state. "
        "One checkpoint is written at a time, the next waits; the last one is written before the run ends.",
    )
    mirror: str | None = Field(
        None,
        examples=["s3://bucket/runs"],
        description="URL of fsspec that committed checkpoints are uploaded to, below a folder with the id of the run.",
    )
    mirror_timeout_s: float = Field(
        300.0,
        ge=0,
        allow_inf_nan=False,
        json_schema_extra={"unit": "seconds"},
        description="Longest wait at the end of the run for uploads to `mirror`.",
    )

    @field_validator("mirror")
    @classmethod
    def _mirror_is_an_address(cls, mirror: str | None) -> str | None:
        if mirror is not None and not _ADDRESS.fullmatch(mirror):
            raise ValueError("expected a URL such as s3://bucket/path, without '?', '#' and '::'")
        return mirror


class Expectation(SpecTable):
    """`[expect]`: a bound on a final metric; the run fails if it breaks."""

    min: float | None = Field(None, allow_inf_nan=False, examples=[0.95], description="Least value of the metric.")
    max: float | None = Field(None, allow_inf_nan=False, examples=[0.05], description="Greatest value of the metric.")
    equals: float | None = Field(
        None, allow_inf_nan=False, examples=[42.0], description="Value of the metric, within `tolerance`."
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        examples=[0.001],
        description="Greatest distance of the metric from `equals`; 0 if left out.",
    )

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.min is None and self.max is None and self.equals is None:
            raise ValueError("expected at least one of min, max, equals")
        if self.tolerance is not None and self.equals is None:
            raise ValueError("found tolerance without equals, expected both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is greater than max ({self.max}), which no metric fits")
        return self


class RunSpec(SpecTable):
    """A whole run: everything that `noether run` does is in its spec."""

    spec: int = Field(VERSION, json_schema_extra={"const": VERSION}, description="Version of the format.")
    extends: list[str] = Field(
        default_factory=list,
        exclude=True,  # a resolved spec is a single file
        examples=[["base.toml"]],
        description="Files that this one extends, the lowest first; their paths are relative to this file.",
    )
    name: str = Field(
        examples=["wing-pressure"],
        description="Name of the run; its run ids begin with it. The file's name if left out.",
    )
    seed: int = Field(
        0, ge=0, examples=[7], description="Seed of everything random: weights, order of samples, augmentation."
    )
    device: str = Field("auto", examples=["cuda:1"], description="auto, cpu, cuda, cuda:N or mps.")
    output: str = Field("runs", description="Folder with one folder per run, relative to the working folder.")
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        examples=[4],
        description="CPU threads of PyTorch, or auto: as many as pay for the size of the model, on the cores that the "
        "process may use. The resolved spec holds the number.",
    )
    deterministic: bool = Field(False, description="Use only operations that give the same bits every time.")
    matmul_precision: Literal["highest", "high", "medium"] | None = Field(
        None, description="Precision of float32 matrix products; PyTorch's default if left out."
    )
    datasets: dict[str, Annotated[Any, Discriminated("dataset")]] = Field(
        default_factory=dict,
        examples=[{"train": {"kind": "digits", "split": "train"}}],
        description="Data sets by key; the run trains on `train`.",
    )
    transforms: list[Annotated[Any, Discriminated("transform")]] = Field(
        default_factory=list,
        examples=[[{"kind": "normalize", "properties": ["points"]}]],
        description="Transforms of all data sets; their statistics come from `train`.",
    )
    loader: LoaderTable = Field(
        default_factory=LoaderTable, examples=[{"num_workers": 2}], description="Loading of samples."
    )
    model: Annotated[Any, Discriminated("model")] = Field(
        examples=[{"kind": "mlp", "hidden": [64, 64]}], description="The model, with its optimizer."
    )
    trainer: Annotated[Any, Discriminated("trainer")] = Field(
        examples=[{"kind": "weighted-loss", "max_epochs": 10}], description="The trainer, with its callbacks."
    )
    trackers: list[Annotated[Any, Discriminated("tracker")]] | None = Field(
        None,
        examples=[[{"kind": "noop"}]],
        description="Trackers that metrics are sent to, beside the run folder; MLflow with its defaults if left out.",
    )
    plugins: PluginsTable = Field(
        default_factory=PluginsTable, examples=[{"use": ["gpu-meter"]}], description="The run plugins of the run."
    )
    checkpoints: CheckpointsTable = Field(
        default_factory=CheckpointsTable, examples=[{"keep_last": 5}], description="Retention of checkpoints."
    )
    expect: dict[str, Expectation] = Field(
        default_factory=dict,
        examples=[{"loss/test/total": {"max": 0.05}}],
        description="Bounds on final metrics by metric key; the run fails where one breaks.",
    )
    initializer: Annotated[Any, Discriminated("initializer")] | None = Field(
        None,
        examples=[{"kind": "my_project.weights.Pretrained"}],
        description="Source of the state that training begins with, in place of the seed; `initializer` under "
        "[trainer] means the same.",
    )
    sweep: SweepTable | None = Field(
        None,
        exclude=True,  # the resolved spec of a run has its own values
        examples=[{"model.optimizer.lr": [1e-3, 1e-2]}],
        description="Values that `noether sweep` tries, by path; other verbs ignore it.",
    )
    resolved: dict[str, Any] | None = Field(
        None, description="Written by Noether into resolved specs: versions and origins. Ignored when read."
    )

    plugin_tables: ClassVar[Mapping[str, Component]] = {}
    """Tables of plugins, by name: fields of a subclass; see `noether.spec.tables`."""
    _configured_by: list[str] = PrivateAttr(default_factory=list)
    """Run plugins whose `configure_spec` made the values what they are; it is not called again for a resume."""
    _references: dict[TomlPath, KeptReference] = PrivateAttr(default_factory=dict)

    @field_validator("spec")
    @classmethod
    def _version_is_known(cls, spec: int) -> int:
        if spec != VERSION:
            raise ValueError(f"expected {VERSION}")
        return spec

    @field_validator("extends")
    @classmethod
    def _extends_was_followed(cls, extends: list[str]) -> list[str]:
        if extends:
            raise ValueError("an override cannot set extends; write it in the file")
        return extends

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("expected lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit")
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"expected at most {_LONGEST_NAME} characters, since folders have this name")
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


def resolved_toml(spec: RunSpec) -> str:
    """Return the TOML text of a loaded spec: all defaults, canonical kinds and ids, and their origins.

    Raises:
        SpecError: if a config holds a value that TOML cannot express.
    """
    return tomli_w.dumps({**resolved_tables(spec), "resolved": _origins(spec)})


def resolved_tables(spec: RunSpec) -> dict[str, Any]:
    """Return the tables of a loaded spec with every default, as plain values, with references to the environment.

    Raises:
        SpecError: if a config holds a value that TOML cannot express.
    """
    tables = plain(dumped(spec))
    for path, kept in spec._references.items():
        _put_back(tables, path, kept)
    if any(kept.reference.is_secret for kept in spec._references.values()):
        tables = _masked(tables)  # a plugin may have carried a secret to another place
    return tables


def dumped(spec: RunSpec) -> dict[str, Any]:
    """Return the fields of a spec as JSON has them, without None and without defaults that a spec cannot hold."""
    tables = spec.model_dump(mode="json", exclude_none=True, exclude={"resolved": True, **_left_to_classes(spec)})
    return {name: _without_nan(table) for name, table in tables.items()}


def changed_settings(spec: RunSpec) -> dict[str, Any]:
    """Return the settings that differ from the defaults of their classes, and those without a default.

    Values are as `dumped` has them: names of keys count, the values may hold what the environment gave.
    """
    left = {"resolved": True, **_left_to_classes(spec)}
    tables: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude=left)
    return tables


def _without_nan(value: Any) -> Any:
    """Leave out the keys of NaN: a spec holds none, so it is a default of a class within an option."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items() if not _is_nan(item)}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value


def _is_nan(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_nan, value))
    return isinstance(value, float) and math.isnan(value)


def _left_to_classes(spec: RunSpec) -> dict[str, Any]:
    """Return the fields to leave out of a dump.

    They are defaults that would not be read again as they are, such as NaN, and what dataclasses compute themselves.
    """
    excluded: dict[Any, Any] = {}
    tables: list[tuple[TomlPath, Any]] = [((name,), getattr(spec, name)) for name in spec.plugin_tables]
    own = [(path, table) for path, table in tables if isinstance(table, BaseModel)]  # a plugin may have put in a dict
    for path, config in [*own, *configs_in(spec)]:
        for name in type(config).model_fields:
            is_lost = name not in config.model_fields_set and _is_lost(type(config), name)
            for below in [()] if is_lost else _given_by_classes(getattr(config, name)):
                table = excluded
                for part in (*path, name, *below)[:-1]:
                    table = table.setdefault(part, {})
                table[(*path, name, *below)[-1]] = True
    return excluded


def _given_by_classes(value: Any) -> Iterator[TomlPath]:
    """Yield the paths of fields that the dataclasses in a value give themselves: computed ones, and lost defaults."""
    parts: Iterable[tuple[Any, Any]] = ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = [field.name for field in dataclasses.fields(value) if _gives_itself(value, field)]
        yield from ((name,) for name in own)
        parts = (
            (field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if field.name not in own
        )
    elif isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for key, item in parts:
        yield from ((key, *path) for path in _given_by_classes(item))


def _gives_itself(holder: Any, field: dataclasses.Field[Any]) -> bool:
    annotation = Any if isinstance(field.type, str) else field.type
    is_default = getattr(holder, field.name) is field.default
    return not field.init or (is_default and field.default is not None and not survives(annotation, field.default))


@cache
def _is_lost(config_class: type[BaseModel], name: str) -> bool:
    field = config_class.model_fields[name]
    if field.default_factory is not None or any(isinstance(mark, Discriminated) for mark in field.metadata):
        return False
    return field.default is not None and not survives(Annotated[field.annotation, field], field.default)


def _put_back(tables: dict[str, Any], path: TomlPath, kept: KeptReference) -> None:
    """Write a reference in place of its value, unless a plugin has changed the value."""
    holder: Any = tables
    for part in path[:-1]:
        holder = item_at(holder, part)
    if item_at(holder, path[-1]) == kept.value and kept.value is not None:
        holder[path[-1]] = dict(kept.reference.table)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return mask(value) if isinstance(value, str) else value


def _origins(spec: RunSpec) -> dict[str, Any]:
    used = enumerate(spec.plugins.use)
    plugins = ((("plugins", "use", index), active_registry().load(PLUGIN.name, name)) for index, name in used)
    found = [*components_in(spec), *plugins]
    kinds = {toml_path(path): f"{component.kind} from {component.origin}" for path, component in found}
    configured = {"configured_by": spec._configured_by} if spec._configured_by else {}
    return {"noether": version("noether-train"), "kinds": kinds, **configured}
