from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `foreign_classes.py`, importable by its name as a user's code is."""
    monkeypatch.syspath_prepend(HERE)
    import foreign_classes

    return foreign_classes


@pytest.fixture
def annotated(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `annotated_classes.py`, importable by its name."""
    monkeypatch.syspath_prepend(HERE)
    import annotated_classes

    return annotated_classes
