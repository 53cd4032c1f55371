"""Runs that are killed or stopped at any moment end with the same bytes as an undisturbed run.

Everything that has state takes part: dropout, accumulation, noise in the data, updates skipped because they are not
finite, averages of the weights with callbacks of their own, the best checkpoint with tolerances, an early stopper.
"""

import importlib.util
import json
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

HERE = Path(__file__).parent
KILLED = -signal.SIGKILL
SAVE_EVERY = 3
EVALUATES = {"kind": "offline-loss", "every_n_updates": 2, "dataset_key": "test"}
HOLDS = {"kind": "lab.chaos.Holds", "every_n_updates": 4}
BEST = {"kind": "best-checkpoint", "every_n_updates": 2, "metric_key": "loss/test/total"}
CALLBACKS = [
    EVALUATES,
    {**BEST, "tolerances": [1, 3]},
    {"kind": "metric-early-stopper", "every_n_updates": 2, "metric_key": "loss/test/total", "patience": 1000},
    {"kind": "ema", "every_n_updates": 3, "target_factors": [0.5, 0.9], "eval_callbacks": [EVALUATES, BEST, HOLDS]},
    {"kind": "checkpoint", "every_n_updates": SAVE_EVERY},
    {"kind": "lab.callbacks.Gambler", "every_n_updates": 1},
    {"kind": "lab.chaos.Copies", "every_n_updates": 4},
]
SPEC = {
    "name": "chaos",
    "device": "cpu",
    "threads": 1,
    "datasets": {
        "train": {"kind": "lab.data.Noisy", "split": "train"},
        "test": {"kind": "lab.data.Noisy", "split": "test", "samples": 3},
    },
    "transforms": [{"kind": "normalize", "properties": ["x"]}],
    "model": {
        "kind": "mlp",
        "hidden": [8],
        "dropout": 0.2,
        "optimizer": {"kind": "AdamW", "lr": 0.1, "schedule": "cosine"},
    },
    "trainer": {
        "kind": "weighted-loss",
        "max_epochs": 4,
        "effective_batch_size": 8,
        "max_batch_size": 2,
        "track_every_n_updates": 2,
        "log_every_n_updates": 5,
        "skip_nan_loss": True,
        "forward_properties": ["x"],
        "target_properties": ["y_target"],
        "field_weights": {"y": 1.0},
        "loss_fn": "lab.losses.nan_at_one_sample",
        "callbacks": CALLBACKS,
    },
    "trackers": [{"kind": "noop"}],
    "checkpoints": {"keep_last": 2},
}
ASYNCHRONOUS = {"checkpoints.asynchronous": True}
UPDATES = 20
FIRST = {"trainer.max_epochs": None, "trainer.max_updates": 4}


def seeds(in_ci, by_night):
    """Return seeds as parameters; a failure's is in the name of the test that failed."""
    return [*range(in_ci), *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(in_ci, by_night))]


@pytest.fixture(scope="module")
def chaos(tmp_path_factory):
    """Attempts at runs of the spec above."""
    specification = importlib.util.spec_from_file_location("chaos", HERE / "chaos.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("chaos")
    shutil.copytree(HERE.parent / "lab", folder / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    chaos = module.Chaos(folder, SPEC, FIRST)
    yield chaos
    chaos.close()


@pytest.fixture
def finish(chaos):
    """Continue a run to its end, and compare it with the undisturbed one."""

    def finished(run_id, changes=None, expected=None):
        assert chaos.start(run_id, changes).end() == 0, chaos.said
        assert chaos.remains(run_id) == (chaos.uninterrupted if expected is None else expected)

    return finished


@pytest.fixture
def killed_where_it_holds(chaos):
    """Kills an attempt while it evaluates averages, at an update or soon after."""
    hold, held = chaos.folder / "hold-from.txt", chaos.folder / "held"

    def kill(run_id, update, changes=None):
        hold.write_text(str(update))
        attempt = chaos.start(run_id, changes)
        assert attempt.reaches(held.exists), chaos.said
        assert attempt.kill() == KILLED
        hold.unlink()
        held.unlink()
        chaos.check_checkpoints(run_id)

    return kill


def test_the_run_that_is_killed_has_everything_in_it(chaos):
    """Or the tests below would show less than they say."""
    step = chaos.checkpoints("uninterrupted") / f"step-{UPDATES:012d}"
    moments = load_file(step / "optimizer.safetensors")
    applied = {int(tensor) for key, tensor in moments.items() if key.endswith("/step")}
    assert applied == {UPDATES * 4 // 5}, "one in five is skipped for its NaN"
    files = {str(path.relative_to(step)) for path in step.rglob("*.*")}
    assert {"data.safetensors", "rank-00000.json"} < files
    assert {f"callbacks/ema/{factor}.safetensors" for factor in (0.5, 0.9)} < files
    assert sorted(json.loads((step / "trainer.json").read_bytes())["callbacks"]) == [
        "best-checkpoint",
        "ema/0.5/best-checkpoint",
        "ema/0.9/best-checkpoint",
        "metric-early-stopper",
    ]


@pytest.mark.parametrize(
    ("changes", "most_lost"), [({}, SAVE_EVERY), (ASYNCHRONOUS, 2 * SAVE_EVERY)], ids=["", "async"]
)
@pytest.mark.parametrize("seed", seeds(in_ci=2, by_night=34))
def test_a_run_killed_at_random_instants_ends_with_the_same_bytes(  # A1 A4
    chaos, finish, figures, seed, changes, most_lost
):
    """An asynchronous save may be lost with the updates after it: the one in flight, and what came after."""
    dice, kills, in_save, sound, lost = random.Random(seed), 0, 0, 0, [0]
    while kills < 10:
        run_id = chaos.new_run()
        while kills < 10:
            attempt = chaos.start(run_id, changes)
            attempt.has_ended(within=dice.uniform(0, chaos.seconds))
            if kills % 2:
                attempt.reaches(partial(chaos.is_saving, run_id))
                attempt.has_ended(within=dice.choice([0, 0.001, 0.004]))
            if attempt.kill() != KILLED:
                break  # it has finished before
            kills, in_save = kills + 1, in_save + chaos.is_saving(run_id)
            sound += chaos.check_checkpoints(run_id)
        finish(run_id, changes)
        lost += chaos.lost_updates(run_id)
    assert max(lost) <= most_lost
    counted = {"inside_a_save": in_save, "sound_steps": sound} | ({} if changes else {"lost_updates": lost})
    figures("kills", survived=kills, attempted=kills, **counted)


@pytest.mark.parametrize("seed", seeds(in_ci=1, by_night=10))
def test_a_run_killed_while_averages_are_in_place_never_keeps_them(  # A5
    chaos, finish, killed_where_it_holds, figures, seed
):
    run_id, instants = chaos.new_run(), sorted(random.Random(seed).sample(range(1, UPDATES - 4), 4))
    for update in instants:
        killed_where_it_holds(run_id, update)
    finish(run_id)
    figures("kills", survived=len(instants), attempted=len(instants))


def test_a_run_preempted_twenty_times_in_one_epoch_keeps_its_position(  # A6
    chaos, finish, killed_where_it_holds, figures
):
    one_epoch = {"datasets.train.samples": 8 * 4 * 21, "trainer.max_epochs": 1}
    assert chaos.start("one-epoch", one_epoch).end() == 0, chaos.said
    run_id = chaos.new_run()
    for preemption in range(1, 21):
        killed_where_it_holds(run_id, 4 * preemption, one_epoch)
    finish(run_id, one_epoch, chaos.remains("one-epoch"))
    figures("kills", survived=20, attempted=20)


@pytest.mark.parametrize("seed", seeds(in_ci=1, by_night=5))
def test_a_run_killed_while_it_resumes_loses_nothing(chaos, finish, killed_where_it_holds, figures, seed):  # A6
    dice, run_id = random.Random(seed), chaos.new_run()
    killed_where_it_holds(run_id, UPDATES // 2)
    newest, started = chaos.newest(run_id), time.monotonic()
    attempt = chaos.start(run_id)
    assert attempt.reaches(partial(chaos.is_saving, run_id))
    to_first_save = time.monotonic() - started
    kills = 1 + (attempt.kill() == KILLED)
    for _ in range(12):
        attempt = chaos.start(run_id)
        attempt.has_ended(within=dice.uniform(0, to_first_save))
        kills += attempt.kill() == KILLED
        assert chaos.newest(run_id) >= newest
        chaos.check_checkpoints(run_id)
    finish(run_id)
    figures("kills", survived=kills, attempted=kills)


@pytest.mark.parametrize("changes", [{}, ASYNCHRONOUS], ids=["", "asynchronous"])
@pytest.mark.parametrize("seed", seeds(in_ci=2, by_night=10))
def test_a_run_stopped_by_sigterm_at_random_instants_ends_with_the_same_bytes(  # A7
    chaos, finish, figures, seed, changes
):
    dice, seconds = random.Random(seed), []
    while len(seconds) < 6:
        run_id, status = chaos.new_run(), None
        while status != 0 and len(seconds) < 6:
            attempt = chaos.start(run_id, changes)
            attempt.has_ended(within=dice.uniform(0, chaos.seconds))
            sent = time.monotonic()
            attempt.send(signal.SIGTERM)
            status = attempt.end()
            assert status in (143, -signal.SIGTERM, 0), "as asked, before or after the run could be asked, or finished"
            if status == 143:
                seconds.append(time.monotonic() - sent)
        chaos.check_checkpoints(run_id)
        finish(run_id, changes)
        assert chaos.lost_updates(run_id) == [], "what SIGTERM commits is the update that it met"
    figures("sigterm", equal=len(seconds), attempted=len(seconds), seconds=seconds)


@pytest.mark.parametrize("seed", seeds(in_ci=1, by_night=10))
def test_a_grace_period_that_ends_before_the_save_does_damages_nothing(chaos, finish, figures, seed):  # A11
    dice, kills = random.Random(seed), 0
    while kills < 5:
        run_id, status = chaos.new_run(), None
        while status != 0 and kills < 5:
            attempt = chaos.start(run_id)
            attempt.has_ended(within=dice.uniform(0, chaos.seconds))
            attempt.send(signal.SIGTERM)
            attempt.has_ended(within=300 ** dice.random() / 1000)  # 1 to 300 ms: from far too short to long enough
            status = attempt.kill()
            kills += status == KILLED
            chaos.check_checkpoints(run_id)
        finish(run_id)
    figures("kills", survived=kills, attempted=kills)
