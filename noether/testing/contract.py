"""`Contract`: the tests that every component and run plugin passes, whatever its role."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import get_annotations
from math import isclose
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, get_args

import tomli_w
import torch
from pydantic.fields import FieldInfo
from torch.utils._pytree import keystr, tree_flatten_with_path

import noether
from noether.checkpoint.manifest import OPTIMIZER, WEIGHTS
from noether.checkpoint.paths import PathProvider, checkpoint_folders
from noether.checkpoint.state import encode_state
from noether.config.discriminated import config_class_of
from noether.core.callbacks.tree import family
from noether.errors import SpecError
from noether.kernel.entries import Component
from noether.kernel.registry import active_registry
from noether.metrics.metrics_file import MetricsFile
from noether.runs.outcome import Outcome
from noether.runs.prepare import Run, rehearsal
from noether.runs.resume.compare import CLOCK, differences
from noether.runs.resume.verify_resume import verify_resume
from noether.spec.load import load_spec
from noether.spec.model import resolved_tables
from noether.testing.builders import graphs_on_cpu, merged, tiny_spec
from noether.testing.ranks import run_on_ranks
from noether.training.parallel import joined

_SHARED = ("noether.config.base", "noether.config.components", "noether.training.trainers.config")
UNKNOWN = "an_option_that_nobody_has"


class Contract:
    """Tests of one component in runs of a tiny spec; each role has a subclass, which adds its own tests.

    ```python
    class TestWeightNorm(CallbackContract):
        config = {"kind": "weight-norm", "every_n_updates": 1}
    ```

    Attributes:
        role: Role of the component.
        config: The component as a spec holds it: a table, or its kind alone.
        spec: Changes of the tiny spec that it needs, as arguments of `tiny_spec`.
    """

    role: ClassVar[str]
    config: ClassVar[Mapping[str, Any] | str]
    spec: ClassVar[Mapping[str, Any]] = {}

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the changes of the tiny spec that put the component into it."""
        raise NotImplementedError(f"{type(self).__name__} puts its component nowhere")

    @property
    def table(self) -> dict[str, Any]:
        """The component's table in a spec."""
        return {"kind": self.config} if isinstance(self.config, str) else dict(self.config)

    @property
    def component(self) -> Component:
        """The object that its kind names."""
        return active_registry().load(self.role, self.table["kind"])

    def spec_of(self, config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """Return the tiny spec with a component in it, and with further changes."""
        return merged(tiny_spec(**self.spec), self.place(dict(config)), changes)

    def run(self, folder: Path, spec: Mapping[str, Any]) -> Outcome:
        """Run a spec to a good end."""
        outcome = noether.run(write_spec(folder, spec), quiet=True)
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def test_its_kind_names_an_object_of_the_role(self) -> None:
        """Its entry point is registered, or it is a dotted path that may be imported; it says what it is for."""
        assert (self.component.target.__doc__ or "").strip(), "missing docstring, which `noether plugins info` shows"

    def test_each_option_has_a_description(self) -> None:
        """`noether plugins info` and editors show it."""
        lacking = [name for name, field in self.options() if not (field.description or "").strip()]
        assert not lacking, f"missing description of {', '.join(lacking)}; write = Field(…, description=…)"

    def test_an_option_that_may_be_unset_is_unset_by_default(self) -> None:
        """TOML has no null, so that nobody could switch off another default, except a boolean by false."""
        stuck = [name for name, field in self.options() if _is_off_by_none(field) and field.get_default() is not None]
        assert not stuck, f"wrong default of {', '.join(stuck)}: expected None, since no spec can set an option to None"

    def test_an_unknown_option_is_refused(self) -> None:
        """Otherwise a misspelled one has no effect, and nobody learns of it."""
        try:
            load_spec(self.spec_of({**self.table, UNKNOWN: 1}))
        except SpecError as error:
            assert UNKNOWN in str(error)
        else:
            raise AssertionError(
                f"'{self.table['kind']}' takes the unknown option {UNKNOWN}; its config has to forbid it"
            )

    def test_its_resolved_spec_is_the_same_spec(self, tmp_path: Path) -> None:
        """A run keeps its spec with every default as TOML, and is resumed from that."""
        first = resolved_tables(load_spec(write_spec(tmp_path, self.spec_of(self.table))).spec)
        again = resolved_tables(load_spec(write_spec(tmp_path, first)).spec)
        assert again == tomllib.loads(tomli_w.dumps(first))

    def test_a_run_of_two_epochs_trains(self, tmp_path: Path) -> None:
        """The tiny spec with the component in it."""
        self.run(tmp_path, self.spec_of(self.table))

    def test_a_run_without_updates_ends_well(self, tmp_path: Path) -> None:
        """`max_updates = 0` evaluates only."""
        self.run(tmp_path, self.spec_of(self.table, trainer={"max_updates": 0}))

    def test_a_run_with_accumulation_trains(self, tmp_path: Path) -> None:
        """Two accumulation steps an update."""
        self.run(tmp_path, self.spec_of(self.table, trainer={"max_batch_size": 2}))

    def test_updates_as_graphs_train_the_same(self, tmp_path: Path) -> None:
        """Bit for bit, on a stand-in of a device with graphs; what no graph can hold gives way to eager updates."""
        with graphs_on_cpu():
            spec = self.spec_of(self.table)
            self.require_equal_training(tmp_path, merged(spec, {"trainer": {"update": "graph"}}), spec)

    def test_a_resumed_run_equals_a_straight_one(self, tmp_path: Path) -> None:
        """Weights, states and metrics, bit for bit, wherever the run was interrupted."""
        report = verify_resume(write_spec(tmp_path, self.spec_of(self.table)))
        unequal = [f"interrupted {point.where}: {point.difference}" for point in report.points if point.difference]
        assert not unequal, "\n".join([*unequal, *report.forgotten])

    def require_equal_ranks(self, folder: Path) -> None:
        """Train on two ranks: their weights and states have to be equal, their metrics those of one process."""
        spec = write_spec(folder, self.spec_of(self.table))
        first, second = run_on_ranks(trained, 2, spec)
        other = sorted(name for name in first.states if first.states[name] != second.states[name])
        assert not other, f"the second rank ends with another state of {', '.join(other)}"
        alone = trained(spec).metrics
        assert first.metrics.keys() == alone.keys(), f"other metrics: {sorted(first.metrics.keys() ^ alone.keys())}"
        unequal = [
            f"{key} is {first.metrics[update, key]} at update {update}, and {value} in one process"
            for (update, key), value in alone.items()
            if not isclose(first.metrics[update, key], value, rel_tol=1e-3, abs_tol=1e-5)
        ]
        assert not unequal, "\n".join(unequal)

    def options(self) -> Iterator[tuple[str, FieldInfo]]:
        """Yield the options of the component's own, by name: not those that each of its role has."""
        config = config_class_of(self.component.target, self.role)
        shared = {name for base in config.__mro__ if base.__module__ in _SHARED for name in get_annotations(base)}
        yield from ((name, field) for name, field in config.model_fields.items() if name not in shared)

    def require_equal_training(self, folder: Path, spec: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        """Run two specs; their last weights, optimizer states and generators have to be equal bit for bit."""
        ended, plain = self.run(folder / "with", spec), self.run(folder / "without", other)
        found = differences(_last_checkpoint(ended), _last_checkpoint(plain))
        unequal = [str(one) for one in found if one.file.startswith((WEIGHTS, OPTIMIZER, "rank"))]
        assert not unequal, "other weights, optimizer states or generators:\n" + "\n".join(unequal)


@dataclass(frozen=True)
class Trained:
    """End of a training on one rank.

    Attributes:
        states: Bits of the weights, and of the state of each callback by its id.
        metrics: Values by update and key, except those that are measured by the clock.
    """

    states: dict[str, object]
    metrics: dict[tuple[int, str], float]


def trained(spec: Path) -> Trained:
    """Train a spec on this rank, or in this process alone, in a folder that is removed."""
    with joined(), rehearsal(load_spec(spec)) as run:
        run.trainer.train(run.model)
        states: dict[str, object] = {"the model": bits(run.model.state_dict())}
        states |= {callback.id: bits(callback.state_dict()) for callback in family(run.trainer.callbacks)}
        run.trainer.log_writer.close()
        records = MetricsFile(run.run_dir / "metrics.jsonl").read()
        metrics = {
            (record.update, key): value
            for record in records
            for key, value in record.metrics.items()
            if not key.startswith(CLOCK)
        }
    return Trained(states, metrics)


def write_spec(folder: Path, spec: Mapping[str, Any]) -> Path:
    """Write a spec whose runs lie in the same folder; return the file."""
    folder.mkdir(exist_ok=True)
    path = folder / "spec.toml"
    path.write_text(tomli_w.dumps({**spec, "output": str(folder / "runs")}), encoding="utf-8")
    return path


def bits(values: Any) -> list[tuple[str, object]]:
    """Return all values in nested tables and lists with their places, tensors as bytes; equal if every bit is."""
    leaves, _ = tree_flatten_with_path(values)
    return [
        (keystr(place), encode_state({"": value}) if isinstance(value, torch.Tensor) else repr(value))
        for place, value in leaves
    ]


@contextmanager
def built(folder: Path, spec: Mapping[str, Any]) -> Iterator[Run]:
    """Yield a whole run, ready to train, without trackers."""
    with rehearsal(load_spec(write_spec(folder, spec))) as run:
        yield run


def _is_off_by_none(field: FieldInfo) -> bool:
    kinds = get_args(field.annotation)
    return not field.is_required() and NoneType in kinds and bool not in kinds


def _last_checkpoint(outcome: Outcome) -> Path:
    paths = PathProvider(outcome.run_dir.parent, outcome.run_dir.name)
    return checkpoint_folders(paths.checkpoint_path)[-1]
