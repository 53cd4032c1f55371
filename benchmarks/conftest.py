"""Pytest's side of the gate: `--gate` compares with the baselines, `--record FILE` measures new ones.

With `--gate` a benchmark that fails is measured again, up to three times in all, unless an exact count has grown. With
`--record` each benchmark is measured several times. The last line says what was compared.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # benchmarks import `benchmarks.timing` and others, with either import mode
    sys.path.insert(0, str(ROOT))

from benchmarks import gate  # noqa: E402  # after the path that it is found in

RENEW = "help: if it is meant, measure again: python benchmarks/renew.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmark gate")
    group.addoption("--gate", action="store_true", help="compare figures with benchmarks/baselines.json")
    group.addoption("--record", type=Path, metavar="FILE", help="measure several times, write the figures to FILE")
    group.addoption("--tries", type=int, default=5, help="measurements of each benchmark with --record")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("gate") or config.getoption("record"):
        config.pluginmanager.register(Gate(config), "benchmark gate")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Gate:
    """Compares or records the figures of the benchmarks of one session.

    Args:
        config: The configuration of the session.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.record: Path | None = config.getoption("record")
        self.baselines = {} if self.record else gate.load()
        self.found: defaultdict[str, list[gate.Figures]] = defaultdict(list)
        self.counts_compare = gate.versions_of() == gate.versions()
        self.ratios_compare = gate.processor_of() == gate.processor()
        self.is_final = False
        self.inexact: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Measure a benchmark as often as needed, and report the last measurement."""
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._measured(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _measured(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        """Measure until a benchmark passes, or until it has been recorded often enough."""
        self.is_final = False
        tries = self.config.getoption("tries") if self.record else gate.TRIES
        for number in range(1, (2 * tries if self.record else tries) + 1):  # some that are recorded may fail
            self._forget(item)
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            failed = any(report.failed for report in reports)
            is_enough = not failed and self._is_recorded(item, tries) if self.record else not failed or self.is_final
            if (number == tries and not self.record) or is_enough or any(report.skipped for report in reports):
                break
        return reports

    def _is_recorded(self, item: pytest.Item, tries: int) -> bool:
        """Return True for a benchmark without figures, and for one with nothing but counts, once they are confirmed."""
        found = self.found.get(item.nodeid, [])
        return not found or not found[-1] or len(found) >= (tries if "ratios" in found[-1] else 2)

    def _forget(self, item: pytest.Item) -> None:
        """Drop what pytest-benchmark keeps of an earlier measurement."""
        session = self.config._benchmarksession  # type: ignore[attr-defined]  # set by pytest-benchmark
        session.benchmarks[:] = [kept for kept in session.benchmarks if kept.fullname != item.nodeid]

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Iterator[None]:
        """Compare the figures of a benchmark that has passed by itself."""
        result = yield
        benchmark = pyfuncitem.funcargs.get("benchmark")
        if benchmark is not None:
            found = gate.figures(benchmark.extra_info)
            self.found[pyfuncitem.nodeid].append(found)
            if self.record is None:
                self._compare(pyfuncitem.nodeid, found)
        return result

    def _compare(self, name: str, found: gate.Figures) -> None:
        if not found and name not in self.baselines:
            return
        if name not in self.baselines:
            self.is_final = True
            pytest.fail(f"has no baseline\n{RENEW} --new", pytrace=False)
        counts = gate.grown_counts(found, self.baselines[name]) if self.counts_compare else []
        self.is_final = bool(counts)  # measured again, it is the same
        width = gate.AT_LEAST if self.ratios_compare else gate.ELSEWHERE
        grown = counts + gate.grown_ratios(found, self.baselines[name], width)
        if grown:
            pytest.fail("\n".join([*grown, f"{RENEW} {name}"]), pytrace=False)

    @property
    def vanished(self) -> list[str]:
        """The benchmarks that have a baseline and belong to what was asked for, but published nothing."""
        if self.record or self.config.option.keyword:
            return []
        asked = [Path(argument.split("::")[0]) for argument in self.config.args]
        folders = [path.resolve().relative_to(ROOT).as_posix() for path in asked if path.exists()]
        expected = [
            name for name in self.baselines if any(f"{name.split('::')[0]}/".startswith(f"{one}/") for one in folders)
        ]
        whole = not any("::" in argument for argument in self.config.args)
        return [name for name in expected if whole and name not in self.found]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail if a benchmark has vanished; write what was recorded."""
        if self.vanished and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.record is not None:
            recorded = {}
            for name, tries in self.found.items():
                try:
                    recorded[name] = gate.baseline_of(tries)
                except ValueError as inexact:
                    self.inexact.append(f"{name}: {inexact}")
                    session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self.record.write_text(json.dumps(recorded))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was compared, and what vanished."""
        for name in self.vanished:
            terminalreporter.write_line(f"FAILED {name} - it has a baseline, but did not run", red=True)
        if not self.record and not self.counts_compare:
            found, expected = gate.versions(), gate.versions_of()
            terminalreporter.write_line(f"gate: counts are not compared: found {found}, baselines are of {expected}")
        if not self.record and not self.ratios_compare:
            terminalreporter.write_line(
                f"gate: ratios may grow by {gate.ELSEWHERE:.0%} here: found {gate.processor()}, "
                f"baselines are of {gate.processor_of()}"
            )
        for line in self.inexact:
            terminalreporter.write_line(f"FAILED {line}", red=True)
        counts, ratios = (
            sum(len(tries[-1].get(kind, {})) for tries in self.found.values()) for kind in ("counts", "ratios")
        )
        measured = sum(map(len, self.found.values()))
        what = "recorded" if self.record else "compared with benchmarks/baselines.json"
        terminalreporter.write_line(
            f"gate: {counts} counts and {ratios} ratios of {len(self.found)} benchmarks {what}, {measured} measurements"
        )
