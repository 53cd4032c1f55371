"""Weighted, balanced and bucketed orders and mixtures through whole runs: resumed with the same bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from noether.runs.plan.plan import make_plan
from noether.runs.resume.verify_resume import verify_resume
from noether.spec.load import load_spec

WAYS: dict[str, dict[str, Any]] = {
    "weighted": {"sampling": {"kind": "weighted", "by": "w", "path": "weights.npz"}},
    "mixture": {},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_with_another_order_is_resumed_in_the_middle_of_an_epoch_with_the_same_bytes(
    tiny_spec: dict[str, Any], lab: Path, way: str
) -> None:
    spec = with_way(tiny_spec, way)
    Path("uneven.toml").write_text(tomli_w.dumps(spec))
    assert verify_resume("uneven.toml", at=[1, 4]).is_equal


def test_a_run_with_buckets_of_clouds_is_resumed_with_the_same_bytes(tiny_spec: dict[str, Any], lab: Path) -> None:
    clouds = {"kind": "lab.batches.Clouds", "collate": "pad", "samples": 20}
    tiny_spec["datasets"] = {"train": clouds, "test": clouds}
    tiny_spec["model"] = {"kind": "lab.batches.Pointwise", "optimizer": {"kind": "SGD", "lr": 0.1}}
    tiny_spec["trainer"] |= {"effective_batch_size": 4, "max_batch_size": 2, "loss_fn": "mse", "callbacks": []}
    tiny_spec["trainer"] |= {"forward_properties": ["x", "mask"], "sampling": {"kind": "buckets", "by": "x", "pool": 2}}
    Path("uneven.toml").write_text(tomli_w.dumps({"spec": 1, **tiny_spec}))
    assert verify_resume("uneven.toml", at=[2]).is_equal


def with_way(tiny_spec: dict[str, Any], way: str) -> dict[str, Any]:
    train = tiny_spec["datasets"]["train"]
    np.savez("weights.npz", w=np.arange(len(np.load("train.npz")["x"])))
    if way == "mixture":
        tiny_spec["datasets"]["train"] = {"kind": "mixture", "parts": [train, train], "weights": [1, 2]} | {
            "samples_per_epoch": 24
        }
    trainer = tiny_spec["trainer"] | WAYS[way] | {"max_batch_size": 2}
    return {"spec": 1, **tiny_spec, "trainer": trainer}


def test_a_plan_counts_the_samples_of_an_epoch_of_a_mixture(tiny_spec: dict[str, Any], lab: Path) -> None:
    Path("uneven.toml").write_text(tomli_w.dumps(with_way(tiny_spec, "mixture")))
    plan = make_plan(load_spec("uneven.toml"))
    assert plan.updates_per_epoch * plan.effective_batch_size + plan.samples_left_out == 24


def test_sampling_of_a_property_that_is_missing_ends_the_run_with_the_names_that_are_there(run: Any, lab: Path) -> None:
    outcome = run({"trainer.sampling": {"kind": "balanced", "by": "klass"}})
    assert outcome.status == "FAILED"
    assert "klass" in str(outcome.error)
