from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noether.errors import SpecError
from noether.kernel.registry import Entry, Registry, use_registry
from noether.spec.errors.problem import InvalidSpecError, problems_in
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


class Refused:
    """The problems of a refused spec.

    Attributes:
        codes: `code path` of each problem, in order.
        text: Messages and hints of all of them, for the names that they suggest.
    """

    def __init__(self, error: SpecError) -> None:
        self.problems = problems_in(error)
        self.codes = [f"{problem.code} {toml_path(problem.path)}".rstrip() for problem in self.problems]
        self.text = "\n".join(f"{problem.message}\n{problem.hint or ''}" for problem in self.problems)


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
def refused(load: Callable[..., LoadedSpec]) -> Callable[..., Refused]:
    """Return the problems with which a spec is refused."""

    def problems(source: Any, *args: Any, **kwargs: Any) -> Refused:
        with pytest.raises(SpecError) as caught:
            load(source, *args, **kwargs)
        return Refused(caught.value)

    return problems


@pytest.fixture
def shown(load: Callable[..., LoadedSpec]) -> Callable[..., str]:
    """Return the whole message with which a spec is refused, as a terminal shows it."""

    def message(source: Any, *args: Any, **kwargs: Any) -> str:
        with pytest.raises(InvalidSpecError) as caught:
            load(source, *args, **kwargs)
        return caught.value.message

    return message
