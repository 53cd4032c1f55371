"""A run whose updates are compiled resumes bit by bit, in the form that it had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from noether.errors import UsageError
from noether.runs.resume.resume import preview

UPDATES_PER_EPOCH, BATCH = 6, 8
SAVES = {"kind": "checkpoint", "every_n_updates": 1}
EMA = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5]}
COMPILED = {
    "trainer.update": "compiled",
    "model.dropout": 0.2,
    "model.optimizer.schedule": "cosine",
    "trainer.callbacks": [EMA, SAVES],
    "trainer.track_every_n_updates": 2,
    "checkpoints.keep_last": 99,
}
importing_the_compiler_warns = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="compiles with a C++ compiler"
)


def forms(run_dir: Path) -> list[str]:
    steps = sorted((run_dir / "checkpoints").glob("step-*"))
    return [json.loads((step / "trainer.json").read_bytes())["trainer"]["form"]["form"] for step in steps]


@pytest.fixture
def unequal(finish, remains):
    """Continues copies of a run after some of its updates; returns those after which it does not end the same."""

    def compare(outcome, changes, *points):
        found = []
        for update in points:
            shutil.copytree(outcome.run_dir, outcome.run_dir.with_name(f"from-{update}"))
            position = f"E{update // UPDATES_PER_EPOCH}_U{update}_S{update * BATCH}"
            resumed = finish(changes, run_id=f"from-{update}", resume=position)
            if remains(resumed) != remains(outcome) or forms(resumed.run_dir) != forms(outcome.run_dir):
                found.append(update)
        return found

    return compare


@importing_the_compiler_warns
@pytest.mark.usefixtures("traced")
def test_a_compiled_run_resumes_exactly_with_accumulation_and_averages(finish, unequal):
    changes = {**COMPILED, "trainer.max_batch_size": 4}
    outcome = finish(changes, run_id="whole")
    assert set(forms(outcome.run_dir)) == {"compiled"}
    assert unequal(outcome, changes, 1, 7) == []


@importing_the_compiler_warns
@pytest.mark.usefixtures("traced", "lab")
def test_a_run_that_gave_way_resumes_in_the_form_that_it_had_at_each_checkpoint(finish, unequal):
    anneals = {"kind": "lab.annealing.Anneals", "every_n_updates": 1}
    changes = {**COMPILED, "trainer.callbacks": [anneals, SAVES]}
    outcome = finish(changes, run_id="whole")
    assert forms(outcome.run_dir) == ["compiled"] * 3 + ["eager"] * 9
    assert unequal(outcome, changes, 3, 4, 5) == []


@importing_the_compiler_warns
@pytest.mark.usefixtures("traced")
def test_a_preview_says_that_a_resume_needs_the_compiler(finish, monkeypatch):
    folder = finish({**COMPILED, "trainer.max_epochs": 1}, run_id="whole").run_dir
    assert not any(line.startswith("refused") for line in preview(folder, checkpoint="E0_U1_S8"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    (line,) = (line for line in preview(folder, checkpoint="E0_U1_S8") if line.startswith("refused"))
    assert "no-such-compiler is not on the PATH" in line


@needs_a_compiler
@importing_the_compiler_warns
@pytest.mark.long
@pytest.mark.timeout(600)
def test_code_of_inductor_resumes_exactly(finish, unequal):
    outcome = finish(COMPILED, run_id="whole")
    assert set(forms(outcome.run_dir)) == {"compiled"}
    assert unequal(outcome, COMPILED, 1, 7) == []


@pytest.mark.parametrize("form", ["compiled", "graph", "auto"])
def test_another_form_is_a_change_of_what_training_computes(run, finish, form):
    finish({"trainer.callbacks": [SAVES]}, run_id="mine")
    with pytest.raises(UsageError, match=r"trainer\.update: 'eager' → "):
        run(
            {"trainer.callbacks": [SAVES], "trainer.update": form, "trainer.max_epochs": 3},
            run_id="mine",
            resume="auto",
        )
