"""Runs that use the code of the documentation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noether.runs.outcome import Outcome


@pytest.fixture
def finish_with(finish: Callable[..., Outcome], lab: Path) -> Callable[..., Outcome]:
    """Runs the tiny spec with these callbacks, tables of a spec, to a good end."""

    def finished(*callbacks: dict[str, Any], **changes: Any) -> Outcome:
        return finish({"trainer.callbacks": list(callbacks), **changes})

    return finished


@pytest.fixture
def classes(tiny_spec: dict[str, Any], lab: Path) -> dict[str, Any]:
    """The tiny spec as one with four classes: a sample has `x`, and its class as `class`, `label` and the target."""
    for key in ("train", "test"):
        x = np.load(f"{key}.npz")["x"]
        np.savez(f"{key}.npz", x=x, label=(x[:, 0] > 0) + 2 * (x[:, 1] > 0))
        tiny_spec["datasets"][key]["properties"] = dict.fromkeys(("class", "label", "label_target"), "label") | {
            "x": "x"
        }
    tiny_spec["model"] = {"kind": "lab.documented.models.Classifier", "optimizer": {"kind": "AdamW", "lr": 0.05}}
    tiny_spec["trainer"] |= {
        "target_properties": ["label_target"],
        "field_weights": {"label": 1.0},
        "loss_fn": "cross-entropy",
    }
    return tiny_spec
