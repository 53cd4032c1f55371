"""A registry that trusts this folder's networks, and configs of models as a spec makes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter

from noether.config.discriminated import Discriminated
from noether.kernel.registry import Registry, use_registry

CONFIG: TypeAdapter[Any] = TypeAdapter(Annotated[Any, Discriminated("model")])


@pytest.fixture
def model_config(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes a model's config: `model_config("mlp", hidden=[4])`; `foreign_networks` can be imported."""
    folder = Path(__file__).parent
    monkeypatch.syspath_prepend(str(folder))
    with use_registry(Registry.installed(project_folders=[folder])):
        yield lambda kind, **settings: CONFIG.validate_python({"kind": kind, **settings})
    sys.modules.pop("foreign_networks", None)
