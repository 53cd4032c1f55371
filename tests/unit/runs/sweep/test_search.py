"""Optuna over the journal: what it chooses depends on the journal alone, and values go there and back unchanged."""

from pathlib import Path
from typing import Any

import pytest

from noether.errors import UsageError
from noether.runs.sweep.journal import FINISHED, Journal, Record
from noether.runs.sweep.plan import SweepPlan
from noether.runs.sweep.search import Search, require_optuna

pytest.importorskip("optuna", reason="pip install -c constraints.txt optuna")

SPEC = """\
datasets = { train = { kind = "digits", split = "train" }, test = { kind = "digits", split = "test" } }
model = { kind = "mlp", out_features = { label = 10 }, optimizer = { kind = "AdamW", lr = 0.01 } }

[trainer]
kind = "weighted-loss"
max_epochs = 3
effective_batch_size = 8
forward_properties = ["image"]
target_properties = ["label_target"]
field_weights = { label = 1.0 }
loss_fn = "cross-entropy"

[[trainer.callbacks]]
kind = "offline-loss"
every_n_epochs = 1
dataset_key = "test"

[sweep]
"model.optimizer.lr" = { log_uniform = [1e-4, 1e-1] }
"model.hidden" = [[8], [8, 8]]
"seed" = { int_uniform = [0, 9] }

[sweep.settings]
method = "optuna"
trials = 9
"""


@pytest.fixture
def plan(workplace: Path) -> SweepPlan:
    (workplace / "spec.toml").write_text(SPEC + 'sampler = { kind = "TPE", n_startup_trials = 2 }\npruner = "Median"\n')
    return SweepPlan.of(Path("spec.toml"))


def empty(plan: SweepPlan) -> Record:
    return Record("s", "spec.toml", plan.method, plan.objective, {})


def end(search: Search, trial: Any, loss: float) -> None:
    trial.state, trial.final = FINISHED, loss
    search.tell(trial)


def test_every_value_that_is_chosen_is_one_of_the_table(plan: SweepPlan) -> None:
    search = Search(plan, empty(plan))
    for number in range(6):
        trial = search.ask()
        assert plan.allows(trial.values)
        end(search, trial, 1.0 / (1 + number))


def test_a_sweep_that_is_started_again_chooses_as_if_it_had_gone_on(plan: SweepPlan, workplace: Path) -> None:
    """The study is built from the journal on the disk, as after a kill."""
    record, journal = empty(plan), Journal(workplace, "s")
    search = Search(plan, record)
    for number in range(4):
        end(search, search.ask(), float((number * 7) % 4))
    (workplace / "s.sweep").mkdir()
    journal.write(record)
    assert Search(plan, journal.read()).ask().values == search.ask().values


def test_each_trial_is_another_draw(plan: SweepPlan) -> None:
    search = Search(plan, empty(plan))
    rates = [search.ask().values["model.optimizer.lr"] for _ in range(4)]
    assert len(set(rates)) == 4


def test_a_trial_that_falls_behind_is_pruned(plan: SweepPlan) -> None:
    search = Search(plan, empty(plan))
    for loss in (1.0, 1.1, 1.2, 1.3, 1.4):
        trial = search.ask()
        assert not search.prunes(trial, 6, loss)
        end(search, trial, loss)
    assert not search.prunes(search.ask(), 6, 0.9)
    assert search.prunes(search.ask(), 6, 9.0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sampler": "TPF"}, "TPE"),
        ({"sampler": "Grid"}, "unknown sampler"),
        ({"sampler": {"n_startup_trials": 3}}, "without kind"),
        ({"sampler": {"kind": "TPE", "startup": 3}}, "TPESampler"),
        ({"pruner": "Medan"}, "Median"),
    ],
)
def test_a_sampler_or_pruner_that_cannot_be_made_is_an_error(
    plan: SweepPlan, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        require_optuna(plan.settings.model_copy(update=setting))


def test_names_may_have_their_suffix_dashes_and_another_case(plan: SweepPlan) -> None:
    patient = {"kind": "Patient", "wrapped_pruner": "Median", "patience": 1}
    for sampler, pruner in (("TPESampler", "successive-halving"), ("QMC", patient)):
        require_optuna(plan.settings.model_copy(update={"sampler": sampler, "pruner": pruner}))
