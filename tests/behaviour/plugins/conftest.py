"""Plugins that are really installed, as metadata and modules in a folder of `sys.path`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noether.kernel import registry
from noether.kernel.entries import installed_commands, installed_entries


def _forget() -> None:
    for cached in (installed_entries, installed_commands, registry._installed):
        cached.cache_clear()


def _forget_local_plugins() -> None:
    for name in [name for name in sys.modules if name.partition("@")[0] == "noether_plugin"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def _no_local_plugin_of_another_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [one for one in sys.path if not Path(one, "noether_plugin.py").exists()])
    _forget_local_plugins()
    yield
    _forget_local_plugins()


@pytest.fixture
def install(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Installs a distribution: its name, its entry points by group, and its modules by name; returns its folder."""
    site = tmp_path_factory.mktemp("site")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(site))

    def install(name: str, groups: dict[str, dict[str, str]], version: str = "1.0", **modules: str) -> Path:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [
            f"[noether.{group}]\n" + "".join(f"{key} = {target}\n" for key, target in points.items())
            for group, points in groups.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for module, text in modules.items():
            (site / f"{module}.py").write_text(text)
        _forget()
        return site

    yield install
    for module in set(sys.modules) - before:
        place = getattr(sys.modules[module], "__file__", None)
        if place and Path(place).is_relative_to(site):
            del sys.modules[module]
    _forget()
