"""Pytest plugin, loaded wherever Noether is installed: `tiny_run`, `two_ranks`, `spec_file`, and others.

Torch is imported when a fixture is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from noether.kernel.entries import Entry
    from noether.runs.outcome import Outcome


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Show a wrong spec in a contract as its message alone: the frames below are those of Noether."""
    from noether.errors import UsageError

    try:
        return (yield)
    except UsageError as error:
        contract = sys.modules.get("noether.testing.contract")
        if contract is None or not issubclass(pyfuncitem.cls or object, contract.Contract):
            raise
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture
def spec_file(tmp_path: Path) -> Callable[[Mapping[str, Any] | str], Path]:
    """Return a function that writes a spec, a dict of tables or TOML, and returns its file; runs lie beside it."""

    def write(spec: Mapping[str, Any] | str) -> Path:
        from noether.testing.contract import write_spec

        if not isinstance(spec, str):
            return write_spec(tmp_path, spec)
        path = tmp_path / "spec.toml"
        path.write_text(spec, encoding="utf-8")
        return path

    return write


@pytest.fixture
def tiny_run(spec_file: Callable[[Mapping[str, Any]], Path]) -> Callable[..., Outcome]:
    """Return a function that runs the tiny spec with changes, `tiny_run(trainer={"max_updates": 3})`, to a good end."""

    def run(**tables: Any) -> Outcome:
        import noether
        from noether.testing.builders import tiny_spec

        outcome = noether.run(spec_file(tiny_spec(**tables)), quiet=True)
        if outcome.error is not None:
            raise outcome.error
        return outcome

    return run


@pytest.fixture
def run_folder(tiny_run: Callable[..., Outcome]) -> Path:
    """Return the folder of a finished run of the tiny spec."""
    return tiny_run().run_dir


@pytest.fixture
def two_ranks() -> Callable[..., list[Any]]:
    """Return a function that calls a function in two processes, the ranks of one launch: `two_ranks(losses, spec)`.

    It returns the result of each rank, see `noether.testing.run_on_ranks`.
    """

    def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        from noether.testing.ranks import run_on_ranks

        return run_on_ranks(function, 2, *arguments, **options)

    return call


@pytest.fixture
def noether_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, Any], None]]:
    """Hide every installed plugin, and give a function that registers an object: `add("callback", "mine", Mine)`.

    The object is a class, a function, or the module of a run plugin. Tests then see what is built in and what they
    register themselves, whatever else is installed.
    """
    from noether.kernel import registry
    from noether.kernel.entries import Entry, installed_entries

    known: list[Entry] = [entry for entry in installed_entries() if entry.is_built_in]
    monkeypatch.setattr(registry, "installed_entries", lambda: tuple(known))
    registry._installed.cache_clear()

    def add(role: str, kind: str, target: Any) -> None:
        place = target.__name__ if isinstance(target, ModuleType) else f"{target.__module__}:{target.__qualname__}"
        known.append(Entry(role, kind, place, "noether-plugin-under-test", "0"))
        registry._installed.cache_clear()

    yield add
    registry._installed.cache_clear()  # no other test finds what this one has registered
