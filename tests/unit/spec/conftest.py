from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noether.errors import SpecError
from noether.kernel.registry import Entry, Registry, use_registry
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.errors.words import toml_path
from noether.spec.load import LoadedSpec, load_spec

HERE = Path(__file__).parent

COMPONENTS = {
    "dataset": {"points": "Points"},
    "model": {"net": "Net"},
    "trainer": {"goal": "Goal"},
    "callback": {
        "note": "Note",
        "pass": "Pass",
        "stop": "StopCallback",
        "average": "AverageCallback",
        "best": "BestCallback",
    },
    "tracker": {"mlflow": "Journal", "journal": "Journal"},
    "loss": {"gap": "gap"},
}

TORCH = {"optimizer": {"AdamW": "torch.optim:AdamW", "SGD": "torch.optim:SGD"}}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The components of `spec_components.py`, and two optimizers, as the only ones that exist."""
    monkeypatch.syspath_prepend(HERE)
    own = [
        Entry(role, name, f"spec_components:{target}", "noether-train", "0.1.0")
        for role, names in COMPONENTS.items()
        for name, target in names.items()
    ]
    torch = [
        Entry(role, name, target, "noether-train", "0.1.0")
        for role, names in TORCH.items()
        for name, target in names.items()
    ]
    plugin = Entry("callback", "grad-norm", "spec_components:Note", "noether-plugin-x", "2.1")
    with use_registry(Registry([*own, *torch, plugin])) as registry:
        yield registry


@pytest.fixture
def tables() -> dict[str, Any]:
    """The smallest spec that is valid, with the components of `registry`."""
    return {
        "spec": 1,
        "name": "small",
        "datasets": {"train": {"kind": "points"}, "test": {"kind": "points", "split": "test"}},
        "model": {"kind": "net", "optimizer": {"kind": "AdamW", "lr": 0.01}},
        "trainer": {"kind": "goal", "max_epochs": 1, "effective_batch_size": 4},
    }


@pytest.fixture
def load(registry: Registry) -> Callable[..., LoadedSpec]:
    """`load_spec` that knows the test's components only."""

    def load_here(source: Any, *args: Any, **kwargs: Any) -> LoadedSpec:
        return load_spec(source, *args, registry=registry, **kwargs)

    return load_here


@pytest.fixture
def refusal(load: Callable[..., LoadedSpec]) -> Callable[..., str]:
    """Return what is wrong with a spec as `path: message` and `help: hint` each, then the count."""

    def message(source: Any, *args: Any, **kwargs: Any) -> str:
        with pytest.raises(SpecError) as caught:
            load(source, *args, **kwargs)
        error = caught.value
        if not isinstance(error, InvalidSpecError):
            return str(error)
        count = error.message.splitlines()[-1]
        return "\n".join([*map(_briefly, error.problems), count])

    return message


@pytest.fixture
def shown(load: Callable[..., LoadedSpec]) -> Callable[..., str]:
    """Return the whole message with which a spec is refused."""

    def message(source: Any, *args: Any, **kwargs: Any) -> str:
        with pytest.raises(InvalidSpecError) as caught:
            load(source, *args, **kwargs)
        return caught.value.message

    return message


def _briefly(problem: Problem) -> str:
    head = f"{toml_path(problem.path)}: {problem.message}"
    return f"{head}\n  help: {problem.hint}" if problem.hint else head
