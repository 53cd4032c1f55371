import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from noether.kernel import entries, registry


@pytest.fixture
def refusal(noether_command) -> Callable[..., str]:
    """Run the command, check that it exits with 2 and leaves no run, and return its message."""

    def refused(*arguments: str | Path) -> str:
        ended = noether_command(*arguments)
        assert ended.code == 2, ended
        assert ended.out == ""
        assert ended.err.startswith(("error: ", "error["))
        assert "Traceback" not in ended.err
        assert not Path("runs").exists()
        return ended.err

    return refused


@pytest.fixture
def spec_file(tiny_spec: dict[str, Any]) -> Callable[..., Path]:
    """Write the tiny spec, with changed tables, to `tiny.toml`."""

    def write(**tables: Any) -> Path:
        path = Path("tiny.toml")
        path.write_text(tomli_w.dumps(tiny_spec | tables))
        return path

    return write


@pytest.fixture
def install(workplace: Path, monkeypatch) -> Iterator[Callable[..., None]]:
    """Installs a distribution for one test: metadata, entry points and modules in a folder of `sys.path`."""
    site = workplace / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    known = set(sys.modules)

    def install_here(
        name: str, entry_points: dict[str, dict[str, str]], modules: dict[str, str], *metadata_lines: str
    ) -> None:
        metadata = site / f"{name.replace('-', '_')}-1.2.dist-info"
        metadata.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.2", *metadata_lines, ""]
        (metadata / "METADATA").write_text("\n".join(lines))
        sections = [
            "\n".join([f"[{group}]", *(f"{key} = {target}" for key, target in named.items()), ""])
            for group, named in entry_points.items()
        ]
        (metadata / "entry_points.txt").write_text("\n".join(sections))
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source)
        forget()

    def forget() -> None:
        """Forget the scan of installed components, which is cached for each process."""
        entries.installed_entries.cache_clear()
        entries.installed_commands.cache_clear()
        registry._installed.cache_clear()

    yield install_here
    monkeypatch.undo()
    forget()
    for name in set(sys.modules) - known:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
