import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noether.spec.model import resolved_toml


@pytest.fixture
def rich(tables: dict) -> dict:
    """A spec that uses most features of a spec."""
    every = {"every_n_epochs": 1}
    tables["datasets"]["train"]["root"] = "data"
    tables["model"] |= {"hidden": [4, 4], "normalization": {"momentum": 0.5}, "limits": [0, float("inf")]}
    tables["trainer"] |= {
        "loss_fn": "gap",
        "callbacks": [
            {
                "kind": "AverageCallback",
                "eval_callbacks": [{"kind": "pass", "dataset_key": "test", **every}],
                **every,
            },
            {"kind": "x/grad-norm", **every},
            {"kind": "note", "every_n_updates": 3},
            {"kind": "note", "id": "second", "every_n_samples": 3},
        ],
    }
    tables["expect"] = {"loss/test/total": {"max": 0.5}, "gap": {"equals": 1, "tolerance": 0.1}}
    return tables


def test_running_the_resolved_spec_is_the_same_run(load: Callable, rich: dict, tmp_path: Path):
    spec = load(rich).spec
    (tmp_path / "spec.resolved.toml").write_text(resolved_toml(spec))
    again = load(tmp_path / "spec.resolved.toml").spec
    assert again == spec
    assert resolved_toml(again) == resolved_toml(spec)


def test_a_resolved_spec_says_every_default(load: Callable, rich: dict):
    resolved = tomllib.loads(resolved_toml(load(rich).spec))
    assert resolved["model"]["optimizer"]["betas"] == [0.9, 0.999]
    checkpoints = {"keep_last": 3, "on_save_error": "raise", "asynchronous": False, "mirror_timeout_s": 300.0}
    assert resolved["checkpoints"] == checkpoints
    assert resolved["trainer"]["loss_fn"] == {"kind": "gap", "delta": 1.0}
    assert resolved["trackers"] == [{"kind": "mlflow", "required": False, "flush_timeout_s": 30.0}]
    assert [callback["id"] for callback in resolved["trainer"]["callbacks"]] == [
        "average",
        "grad-norm",
        "note",
        "second",
    ]


def test_a_resolved_spec_says_where_every_kind_is_from(load: Callable, rich: dict):
    resolved = tomllib.loads(resolved_toml(load(rich).spec))["resolved"]
    assert resolved["noether"]
    assert resolved["kinds"]["model.optimizer"] == "AdamW from noether-train 0.1.0"
    assert resolved["kinds"]["trainer.callbacks.1"] == "x/grad-norm from noether-plugin-x 2.1"
    assert resolved["kinds"]["trainer.callbacks.0.eval_callbacks.0"] == "pass from noether-train 0.1.0"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    lr=st.floats(allow_nan=False),
    hidden=st.integers(-(2**63), 2**63 - 1) | st.lists(st.integers(0, 99)),
    key=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_value_survives(load: Callable, rich: dict, lr: float, hidden, key: str):
    rich["model"]["optimizer"]["lr"] = lr
    rich["model"]["hidden"] = hidden
    rich["expect"] = {key: {"min": 0}}
    spec = load(rich).spec
    assert load(tomllib.loads(resolved_toml(spec))).spec == spec
