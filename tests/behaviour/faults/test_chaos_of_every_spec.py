"""Every spec that needs no package, killed at any moment, with and without workers, ends with the same bytes.

A callback opens and closes all files of the run, as a backup does.
"""

import importlib.util
import random
import shutil
import signal
import tomllib
from functools import partial
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SPECS = HERE.parents[2] / "specs"
KILLED = -signal.SIGKILL
KILLS = 4
RUNS = [
    pytest.param((path, workers), id=f"{path.stem}-{workers}", marks=[] if in_ci else pytest.mark.chaos)
    for path in (SPECS / "experiment.toml", *sorted(SPECS.glob("smoke/*.toml")))
    for workers in (0, 2)
    for in_ci in [(path.stem, workers) in (("digits", 2), ("every-callback", 0))]
]
ADDED = [
    {"kind": "lab.chaos.Copies", "every_n_updates": 7},
    {"kind": "checkpoint", "every_n_updates": 10},
]


def small(path, workers):
    """Return a spec with fewer updates and with the callbacks above."""
    spec = tomllib.loads(path.read_text())
    spec.pop("expect", None)
    spec["threads"] = 1
    spec["trackers"] = [{"kind": "noop"}]
    spec.setdefault("loader", {})["num_workers"] = workers
    spec["trainer"]["max_epochs"] = 1 if path.stem == "experiment" else 3
    callbacks = [one for one in spec["trainer"]["callbacks"] if one["kind"] != "checkpoint"]
    spec["trainer"]["callbacks"] = [*callbacks, *ADDED]
    return spec


@pytest.fixture(scope="module")
def chaos(tmp_path_factory, request):
    """Attempts at runs of a spec."""
    specification = importlib.util.spec_from_file_location("chaos", HERE / "chaos.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("chaos")
    shutil.copytree(HERE.parent / "lab", folder / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    first = {"trainer.max_epochs": 1}
    measured = ("profiling/", "best=")
    chaos = module.Chaos(folder, small(*request.param), first, by_the_clock=measured)
    yield chaos
    chaos.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(1, 13))])
@pytest.mark.parametrize("chaos", RUNS, indirect=True)
def test_a_run_of_a_spec_killed_at_random_instants_ends_with_the_same_bytes(chaos, figures, seed):  # A1
    dice, kills, in_save, sound = random.Random(seed), 0, 0, 0
    while kills < KILLS:
        run_id = chaos.new_run()
        while kills < KILLS:
            attempt = chaos.start(run_id)
            attempt.has_ended(within=dice.uniform(0, chaos.seconds))
            if kills % 2:
                attempt.reaches(partial(chaos.is_saving, run_id))
            if attempt.kill() != KILLED:
                break  # it has finished before
            kills, in_save = kills + 1, in_save + chaos.is_saving(run_id)
            sound += chaos.check_checkpoints(run_id)
        assert chaos.start(run_id).end() == 0, chaos.said
        assert chaos.remains(run_id) == chaos.uninterrupted
    figures("kills", survived=kills, attempted=kills, inside_a_save=in_save, sound_steps=sound)
