"""Figures of reliability that tests and benchmarks publish, read from the reports of pytest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree


class NotMeasuredError(Exception):
    """No test of this tier has published the figure."""


class Report:
    """Figures that tests and benchmarks have published.

    Args:
        folder: Holds `tests.xml`, `benchmarks.xml` and `benchmarks.json` as pytest writes them.
    """

    def __init__(self, folder: Path) -> None:
        files = [file for name in ("tests.xml", "benchmarks.xml") if (file := folder / name).exists()]
        self.cases = [case for file in files for case in ElementTree.parse(file).iter("testcase")]
        measured = folder / "benchmarks.json"
        self.benchmarks = json.loads(measured.read_text())["benchmarks"] if measured.exists() else []
        self.published: dict[str, list[Any]] = {}
        for case in self.cases:
            for found in case.iter("property"):
                self.published.setdefault(found.attrib["name"], []).append(json.loads(found.attrib["value"]))

    @property
    def failed(self) -> list[str]:
        """The tests that did not pass."""
        return [
            f"{case.attrib['classname']}::{case.attrib['name']}"
            for case in self.cases
            if case.find("failure") is not None or case.find("error") is not None
        ]

    def total(self, name: str, key: str | None = None) -> int:
        """Add up a number that tests have published, `key` of the table `name` or `name` itself."""
        return sum(found if key is None else found.get(key, 0) for found in self._of(name))

    def joined(self, name: str, key: str) -> list[float]:
        """Return everything in the lists that tests have published, in order of size."""
        return sorted(value for found in self._of(name) for value in found.get(key, []))

    def passed(self, file: str) -> int:
        """Return the number of executed cases of files whose name contains this."""
        cases = sum(file in case.attrib["classname"] and case.find("skipped") is None for case in self.cases)
        if not cases:
            raise NotMeasuredError(file)
        return cases

    def benchmark(self, name: str, key: str) -> float:
        """Return a number that a benchmark has published."""
        for found in self.benchmarks:
            if name in found["fullname"]:
                return float(found["extra_info"][key])
        raise NotMeasuredError(name)

    def _of(self, name: str) -> list[Any]:
        if name not in self.published:
            raise NotMeasuredError(name)
        return self.published[name]
