"""Settings of the `resume` initializer."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from noether.core.initializers import ResumeInitializerConfig


@pytest.mark.parametrize("settings", [{}, {"run_id": "a", "path": "runs/a"}])
def test_exactly_one_run_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        ResumeInitializerConfig(kind="resume", **settings)
    assert "run_id and path" in str(error.value)


def test_the_latest_checkpoint_is_the_default() -> None:
    assert ResumeInitializerConfig(kind="resume", run_id="a").checkpoint == "latest"
