from collections.abc import Iterator
from pathlib import Path

import pytest

from noether.kernel.entries import Entry, installed_entries
from noether.kernel.registry import Registry, use_registry

MADE_UP = [
    Entry("callback", "average", "made_up_plugin:AverageCallback", "noether-plugin-average", "1.2"),
    Entry("callback", "swa", "made_up_plugin:AverageCallback", "noether-plugin-average", "1.2"),
    Entry("callback", "swa", "another_plugin:Ema", "noether-plugin-swa", "0.3"),
    Entry("model", "broken", "made_up_plugin:Missing", "noether-plugin-average", "1.2"),
    Entry("callback", "from-the-future", "nowhere:Late", "noether-plugin-late", "1.0", ("noether-train>=7",)),
]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The built-in components alone, and two plugins, one with code to import."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    built_in = [entry for entry in installed_entries() if entry.is_built_in]
    with use_registry(Registry([*built_in, *MADE_UP])) as registry:
        yield registry
