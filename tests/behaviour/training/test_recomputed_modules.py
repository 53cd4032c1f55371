"""`checkpoint` under [model] takes less memory and leaves a run as it is, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from noether.cli.plan import print_plan
from noether.errors import SpecError, TrainingError
from noether.runs.measure.profile import flops_of
from noether.runs.plan.plan import make_plan
from noether.runs.prepare import rehearsal
from noether.runs.resume.verify_resume import verify_resume
from noether.spec.load import load_spec
from noether.testing import RecordingDevice

ADAMW = {"kind": "AdamW", "lr": 0.01, "clip_grad_norm": 0.5, "schedule": "cosine"}
EMA = {
    "kind": "ema",
    "every_n_updates": 4,
    "target_factors": [0.9],
    "eval_callbacks": [{"kind": "offline-loss", "every_n_updates": 3, "dataset_key": "test"}],
}
PATTERNS = ["blocks.*"]


def blocks(*patterns: str, **settings: Any) -> dict[str, Any]:
    model = {"kind": "lab.blocks.Blocks", "optimizer": ADAMW, **settings}
    return {"model": {**model, "checkpoint": [*patterns]} if patterns else model}


def composite(*patterns: str) -> dict[str, Any]:
    """Return a composite whose encoder is a torch module with a pattern of its own."""
    encoder = {"kind": "lab.blocks.Blocks", "optimizer": ADAMW}
    decoder = {"kind": "mlp", "hidden": [4], "in_features": {"y": 2}, "optimizer": ADAMW}
    part = {"checkpoint": [*patterns]} if patterns else {}
    return {"model": {"kind": "lab.blocks.Coder", "encoder": {**encoder, **part}, "decoder": decoder}}


def left(outcome: Any) -> dict[str, bytes]:
    """Return the bytes of weights, averages, optimizer and generators that a run leaves."""
    newest = max((outcome.run_dir / "checkpoints").glob("step-*"))
    kinds = ("*.safetensors", "*rank*")
    return {str(p.relative_to(newest)): p.read_bytes() for kind in kinds for p in newest.rglob(kind) if p.is_file()}


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"trainer.max_batch_size": 2},
    "bf16": {"trainer.precision": "bf16"},
    "fp16 with a scaler": {"trainer.precision": "fp16", "trainer.max_batch_size": 4},
    "averages": {"trainer.callbacks": [EMA]},
    "skipped updates": {"trainer.skip_nan_loss": True},
    "watched gradients": {"trainer.monitor_training_stability": True},
}


@pytest.mark.parametrize("settings", RUNS.values(), ids=list(RUNS))
def test_a_run_with_recomputed_modules_ends_with_the_same_bytes(
    finish: Any, lab: Path, settings: dict[str, Any]
) -> None:
    plain = left(finish({**blocks(), **settings}, run_id="plain"))
    assert left(finish({**blocks(*PATTERNS), **settings}, run_id="again")) == plain
    assert len(plain) > 2


def test_modules_in_a_part_of_a_composite_are_recomputed(finish: Any, lab: Path) -> None:
    plain = left(finish(composite(), run_id="plain"))
    assert left(finish(composite(*PATTERNS), run_id="again")) == plain


def test_updates_as_graphs_recompute_modules_that_draw_no_random_numbers(
    finish: Any, lab: Path, graphs_on_cpu: RecordingDevice
) -> None:
    graph = {"trainer.update": "graph"}
    plain = left(finish({**blocks(dropout=0.0), **graph}, run_id="plain"))
    assert left(finish({**blocks(*PATTERNS, dropout=0.0), **graph}, run_id="again")) == plain
    assert graphs_on_cpu.calls.count("replay") > 2 * 8


def test_updates_are_eager_where_a_graph_would_draw_other_random_numbers(
    finish: Any, lab: Path, graphs_on_cpu: RecordingDevice
) -> None:
    plain = left(finish({**blocks(), "trainer.update": "graph"}, run_id="plain"))
    outcome = finish({**blocks(*PATTERNS), "trainer.update": "graph"}, run_id="again")
    assert left(outcome) == plain
    assert "updates are eager, not graph: a replay does not leave the bits" in (outcome.run_dir / "log.txt").read_text()


def test_updates_are_eager_instead_of_compiled_and_the_plan_says_why(
    finish: Any, tiny_spec: dict[str, Any], lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = {"trainer.update": "compiled"}
    table = {**tiny_spec, **blocks(*PATTERNS, depth=5), "trainer": {**tiny_spec["trainer"], "update": "compiled"}}
    plan = make_plan(load_spec(table))
    assert (plan.form, "`checkpoint` under [model]" in plan.slower_because["compiled"]) == ("eager", True)
    assert plan.recomputed == ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4"]
    print_plan(plan)
    assert "5 modules: blocks.0, blocks.1, blocks.2, blocks.3 and 1 more" in capsys.readouterr().out
    eager = left(finish(blocks(), run_id="eager"))
    assert left(finish({**blocks(*PATTERNS), **compiled}, run_id="compiled")) == eager


def test_a_resume_may_add_and_remove_recomputed_modules(finish: Any, lab: Path) -> None:
    whole = left(finish(blocks(), run_id="whole"))
    stop = {"trainer.callbacks": [{"kind": "fixed-early-stopper", "stop_at_update": 5}]}
    for run, first, then in (("adds", blocks(), blocks(*PATTERNS)), ("removes", blocks(*PATTERNS), blocks())):
        finish({**first, **stop}, run_id=run)
        assert left(finish(then, run_id=run, resume="auto")) == whole


def test_a_run_with_recomputed_modules_is_resumed_exactly(tiny_spec: dict[str, Any], lab: Path) -> None:
    Path("resumed.toml").write_text(tomli_w.dumps({**tiny_spec, **blocks(*PATTERNS)}))
    assert verify_resume("resumed.toml", at=[2, 7]).is_equal


def test_a_pattern_without_a_module_is_refused_before_training_with_the_nearest_names(
    run: Any, noether_command: Any, tiny_spec: dict[str, Any], lab: Path
) -> None:
    with pytest.raises(SpecError) as refused:
        run(blocks("block.*"))
    assert "blocks.0" in str(refused.value.hint)
    with pytest.raises(SpecError):
        run(blocks("blocks"))  # a list of modules, which is never called
    assert not Path("runs").exists()
    Path("wrong.toml").write_text(tomli_w.dumps({**tiny_spec, **blocks("block.*")}))
    checked = noether_command("check", "--deep", "wrong.toml")
    assert (checked.code, "'block.*'" in checked.err) == (2, True)


def test_a_module_that_changes_its_input_ends_the_run_with_its_name(run: Any, lab: Path) -> None:
    outcome = run(blocks("act", inplace=True))
    assert isinstance(outcome.error, TrainingError)
    assert "'act'" in outcome.error.message


def test_model_flops_do_not_grow(tiny_spec: dict[str, Any], lab: Path) -> None:
    def flops(model: dict[str, Any]) -> int:
        with rehearsal(load_spec({**tiny_spec, **model})) as made:
            return flops_of(made, {"x": torch.ones(4, 3), "y_target": torch.ones(4, 2)})

    assert flops(blocks(*PATTERNS)) == flops(blocks())
