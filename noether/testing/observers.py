"""Contracts of what follows a run or stands beside it: callbacks, run plugins, trackers, commands."""

from __future__ import annotations

import copy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic.fields import FieldInfo

import noether
from noether.config.base import construct
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.tree import family
from noether.errors import SpecError
from noether.kernel.compile import HookWatch, watch_hooks
from noether.kernel.entries import Component
from noether.kernel.hookspecs import HOOKS, implementation_options
from noether.metrics.figures import content_of, encoded
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.results import ResultsFile, results_in
from noether.metrics.tracker import RunDescription
from noether.runs.prepare import Run
from noether.spec.load import load_spec
from noether.testing.builders import merged, tiny_spec
from noether.testing.contract import UNKNOWN, Contract, bits, built, write_spec
from noether.testing.ranks import RankError

HOT_HOOKS = ("track_after_accumulation_step", "before_optimizer_step", "track_after_update_step")
_ID = "under-test"


class _FollowerContract(Contract):
    """Base of the contracts of all that follow a run by hooks.

    Attributes:
        mutates: True if it is there to change training: the weights of a run with it may be others than without.
        budget_us: Microseconds that a call of a hook of every update may take, at its quickest.
    """

    mutates: ClassVar[bool] = False
    budget_us: ClassVar[float] = 50.0
    participant: ClassVar[str] = _ID
    absent: ClassVar[Mapping[str, Any]] = {}

    def test_training_is_the_same_without_it(self, tmp_path: Path) -> None:
        """Weights, optimizer states and random generators are equal bit for bit, unless it `mutates`."""
        if self.mutates:
            pytest.skip("mutates = True: it is there to change training")
        spec = self.spec_of(self.table)
        self.require_equal_training(tmp_path, spec, merged(spec, self.absent))

    def test_hooks_of_every_update_are_cheap(
        self, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """Their quickest calls take at most `budget_us`; the report of the tests names them."""
        quickest: dict[str, float] = {}

        def note(hook: str, participant: str, update_counter: Any, seconds: float) -> None:
            if hook in HOT_HOOKS and participant == self.participant:
                quickest[hook] = min(1e6 * seconds, quickest.get(hook, float("inf")))

        with watch_hooks(HookWatch(trace=note)):
            self.run(tmp_path, self.spec_of(self.table, trainer={"max_updates": 60}))
        for hook, us in quickest.items():
            record_property(f"{hook}_us", round(us, 2))
        dear = [f"{hook} takes {us:.0f} µs" for hook, us in quickest.items() if us > self.budget_us]
        assert not dear, f"{', '.join(dear)}, at most {self.budget_us:.0f} are stated; set budget_us if it has to"


class CallbackContract(_FollowerContract):
    """Contract of callbacks.

    Attributes:
        before: Callbacks that log what it reads, as a spec holds them; they come before it.
        nests: True if it may be a child of an `ema` callback.
        ranks: True if it works on several ranks; one that does not has to refuse them.
    """

    role = "callback"
    before: ClassVar[Sequence[Mapping[str, Any]]] = ()
    nests: ClassVar[bool] = True
    ranks: ClassVar[bool] = True

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Make it the last callback of the spec."""
        return {"trainer": {"callbacks": [*self.before, {"id": _ID, **config}]}}

    @property
    def absent(self) -> dict[str, Any]:  # type: ignore[override]
        """The changes that take it out of the spec again."""
        return {"trainer": {"callbacks": list(self.before)}}

    def test_it_implements_a_hook(self) -> None:
        """A method whose name is misspelled is never called."""
        assert [hook for hook in HOOKS if self._overrides(hook)], f"it defines no hook of {', '.join(HOOKS)}"

    def test_it_takes_back_the_state_that_it_returned(self, tmp_path: Path) -> None:
        """A new callback that loads it returns an equal one."""
        spec = self.spec_of(self.table)
        with built(tmp_path, spec) as run:
            run.trainer.train(run.model)
            state = self._own(run).state_dict()
        with built(tmp_path, spec) as run:
            if state is not None:
                self._own(run).load_state_dict(copy.deepcopy(state))
                assert bits(self._own(run).state_dict()) == bits(state)

    def test_two_ranks_have_its_state_and_the_metrics_of_one(self, tmp_path: Path) -> None:
        """A run may have several ranks, each with a callback of its own: all have equal states, and see all samples."""
        if self.ranks:
            self.require_equal_ranks(tmp_path)
        else:
            with pytest.raises(RankError):
                self.require_equal_ranks(tmp_path)

    def test_it_works_within_another_callback(self, tmp_path: Path) -> None:
        """As a child of `ema` it sees averaged weights, and its metrics begin with `ema=0.9/`."""
        if not self.nests or "every_n_" not in str(self.table):
            pytest.skip("nests = False, or it has no interval: it is no child of a callback")
        parent = {
            "kind": "ema",
            "every_n_epochs": 1,
            "target_factors": [0.9],
            "eval_callbacks": [*self.before, self.table],
        }
        self.run(tmp_path, self.spec_of(self.table, trainer={"callbacks": [parent]}))

    def _own(self, run: Run) -> Any:
        return next(callback for callback in family(run.trainer.callbacks) if callback.id == _ID)

    def _overrides(self, hook: str) -> bool:
        return getattr(self.component.target, hook, None) is not getattr(CallbackBase, hook, None)


class RunPluginContract(_FollowerContract):
    """Contract of run plugins: `config` is the name that `[plugins] use` has.

    Attributes:
        tables: Its tables as a spec holds them, with every required option: `{"meter": {"every": 5}}`.
    """

    role = "plugin"
    tables: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @property
    def absent(self) -> dict[str, Any]:  # type: ignore[override]
        """The changes that take it out of the spec again."""
        return {"plugins": None, **dict.fromkeys(self.tables)}

    @property
    def participant(self) -> str:  # type: ignore[override]
        """Name of its hooks in a trace."""
        return str(self.table["kind"])

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Name it in `[plugins]`, and write its tables; an unknown option goes into each table, or beside its name."""
        others = {key: value for key, value in config.items() if key != "kind"}
        tables = {name: {**table, **others} for name, table in self.tables.items()}
        return {"plugins": {"use": [config["kind"]], **({} if tables else others)}, **tables}

    def options(self) -> Iterator[tuple[str, FieldInfo]]:
        """Yield the options of its tables."""
        for name, table in self._known_tables().items():
            yield from ((f"{name}.{key}", field) for key, field in table.target.model_fields.items())

    def _known_tables(self) -> Mapping[str, Component]:
        return load_spec(self.spec_of(self.table)).spec.plugin_tables

    def test_its_tables_are_those_of_the_contract(self) -> None:
        """`tables` names each table that its use adds to a spec; one without required options may be left out."""
        known = self._known_tables()
        assert set(known) == set(self.tables), f"a spec that uses it has the tables {', '.join(known) or '(none)'}"
        for name, table in known.items():
            if not any(field.is_required() for field in table.target.model_fields.values()):
                load_spec(merged(self.spec_of(self.table), {name: None}))

    def test_each_of_its_tables_refuses_an_unknown_option(self) -> None:
        """A base class other than `SpecTable`, or `extra = "ignore"`, would let a misspelled one have no effect."""
        for name, table in self.tables.items():
            with pytest.raises(SpecError, match=UNKNOWN):
                load_spec(merged(self.spec_of(self.table), {name: {**table, UNKNOWN: 1}}))

    def test_it_implements_a_hook(self) -> None:
        """Only functions marked with `@noether.hookimpl` are called."""
        marked = [
            hook for hook in HOOKS if implementation_options(getattr(self.component.target, hook, None)) is not None
        ]
        assert marked, f"no function in it is marked with @noether.hookimpl and named after a hook: {', '.join(HOOKS)}"


class TrackerContract(Contract):
    """Contract of trackers. A tracker that needs a server gets one from a fixture of the test's own."""

    role = "tracker"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Make it the only tracker."""
        return {"trackers": [config]}

    def test_a_run_is_followed_to_its_end(self, tmp_path: Path) -> None:
        """Opened, given records, closed; opened again with its `reference`, it knows which records have arrived."""
        records = [
            MetricRecord(update=update, epoch=0, sample=4 * update, time=0.0, metrics={"a/b": 0.5}) for update in (1, 2)
        ]
        with built(tmp_path, merged(self.spec_of(self.table), {"trackers": [{"kind": "noop"}]})) as run:
            first = self.tracker()
            first.open(described(run, {}))
            first.log_metrics(records[:1])
            again = self.tracker()
            again.open(described(run, first.reference))
            again.log_metrics(again.undelivered(records))
            again.close("FINISHED", None)
            arrived = again.newest_update()
        assert arrived in (None, 2), f"the newest update is said to be {arrived}; it was 2"

    def test_it_takes_results_of_every_kind_and_the_same_ones_again(self, tmp_path: Path) -> None:
        """A figure, a table, a histogram and a file; they come again after an error, or when a process has died."""
        kept = ResultsFile(tmp_path)
        given = tmp_path / "given.txt"
        given.write_text("text")
        kept.keep(
            MetricRecord(update=1, epoch=0, sample=4, time=0.0),
            {
                kind: content_of(encoded(kind, kind, *values))
                for kind, values in {
                    "figure": (torch.zeros(2, 2),),
                    "table": ({"x": [1.5, None], "name": ["a", "b"]},),
                    "histogram": (torch.arange(4.0), 2),
                    "file": (given,),
                }.items()
            },
        )
        kept.close()
        with built(tmp_path, merged(self.spec_of(self.table), {"trackers": [{"kind": "noop"}]})) as run:
            tracker = self.tracker()
            tracker.open(described(run, {}))
            for result in [*results_in(tmp_path)] * 2:
                tracker.log_result(result, tmp_path / result.file)
            tracker.close("FINISHED", None)

    def test_its_constructor_uses_no_network(self) -> None:
        """A spec is checked, and a run built, where no network is."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket.socket, "connect", _refuse)
            self.tracker()

    def tracker(self) -> Any:
        """Return a new one."""
        return next(construct(config) for config in load_spec(self.spec_of(self.table)).spec.trackers or ())


class CommandContract:
    """Contract of verbs that a plugin adds to `noether`.

    Attributes:
        config: Name of the verb.
        arguments: Arguments to call it with; `RUN` becomes the folder of a finished run.
    """

    config: ClassVar[str]
    arguments: ClassVar[Sequence[str]] = ()

    def test_it_is_registered_and_has_help(self) -> None:
        """`noether --help` lists it, and its own help says what it is for."""
        assert self.config in self.noether("--help")
        assert len(self.noether(self.config, "--help").splitlines()) > 2

    def test_it_runs(self, tmp_path: Path) -> None:
        """It ends without an error, on a finished run where it wants one."""
        arguments = list(self.arguments)
        if "RUN" in arguments:
            outcome = noether.run(write_spec(tmp_path, tiny_spec()), quiet=True)
            arguments[arguments.index("RUN")] = str(outcome.run_dir)
        self.noether(self.config, *arguments)

    @staticmethod
    def noether(*arguments: str) -> str:
        """Return the output of a `noether` command that has to succeed."""
        command = [sys.executable, "-m", "noether", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ended.returncode == 0, f"noether {' '.join(arguments)} exits with {ended.returncode}:\n{ended.stderr}"
        return ended.stdout


def described(run: Run, reference: Mapping[str, str]) -> RunDescription:
    """Return a run as its trackers are told of it.

    Args:
        run: The run.
        reference: What the tracker of an earlier attempt at it has left.
    """
    return RunDescription(run.run_id, run.spec.name, run.run_dir, reference=reference, token="contract")


def _refuse(*_: object) -> None:
    raise AssertionError("it connects to a server before `open`")
