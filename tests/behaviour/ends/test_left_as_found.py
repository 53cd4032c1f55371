"""`noether.run` restores the state of the process, so that it can be called repeatedly."""

import logging
import multiprocessing
import os
import random
import signal
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from noether.errors import DataError
from noether.training.trainers import BaseTrainer

ENDS = {
    "a good end": {},
    "a failure": {"trainer.callbacks": [{"kind": "lab.callbacks.Fails", "every_n_updates": 1}]},
    "a signal": {"trainer.callbacks": [{"kind": "lab.callbacks.Signals", "every_n_updates": 1, "numbers": [15]}]},
    "workers": {"loader.num_workers": 1},
    "process-wide settings": {"threads": 2, "deterministic": True, "matmul_precision": "medium"},
}


def state_of_the_process():
    logger = logging.getLogger("noether")
    return {
        "python": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "threads": [thread.name for thread in threading.enumerate()],
        "processes": multiprocessing.active_children(),
        "handlers": (logger.handlers[:], logger.level, logger.propagate, logging.getLogger().handlers[:]),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        "torch threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "only warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "gradients": torch.is_grad_enabled(),
        "environment": dict(os.environ),
        "warnings": warnings.filters[:],
        "folder": Path.cwd(),
    }


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    """Make an optimizer: torch imports much for the first one, which leaves filters and variables behind."""
    torch.optim.SGD([torch.zeros(1)], lr=0.1)


@pytest.mark.parametrize("changes", ENDS.values(), ids=ENDS)
def test_a_run_leaves_the_process_as_it_found_it(run, lab, changes):
    torch.rand(3)  # not at the start of its stream
    before = state_of_the_process()
    run(changes)
    assert state_of_the_process() == before


def test_a_spec_that_is_refused_leaves_the_process_as_it_found_it(run, lab):
    before = state_of_the_process()
    with pytest.raises(DataError):
        run({"trainer.effective_batch_size": 1000})
    assert state_of_the_process() == before


def test_earlier_runs_have_no_influence(finish, final_weights):
    first = final_weights(finish({"model.dropout": 0.2}))
    torch.rand(100)
    finish({"seed": 5})
    assert final_weights(finish({"model.dropout": 0.2})) == first


def test_each_run_has_a_folder_of_its_own(finish):
    folders = {finish({"trainer.max_epochs": 0}).run_dir for _ in range(4)}
    assert len(folders) == 4


def test_a_run_outside_of_the_main_thread_works(finish):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(finish()))
    thread.start()
    thread.join()
    assert outcomes[0].status == "FINISHED"


def test_runs_in_threads_write_to_their_own_log_and_leave_the_process_as_found(run):
    before = state_of_the_process()
    both_train, outcomes = threading.Barrier(2, timeout=60), {}

    def train(name, epochs):
        outcomes[name] = run({"trainer.max_epochs": epochs}, run_id=name)

    runs = [threading.Thread(target=train, args=each) for each in (("one", 2), ("two", 4))]
    with pytest.MonkeyPatch.context() as patch:
        training = BaseTrainer.train
        patch.setattr(BaseTrainer, "train", lambda self, model: (both_train.wait(), training(self, model)))
        for each in runs:
            each.start()
        for each in runs:
            each.join()
    assert {name: outcome.status for name, outcome in outcomes.items()} == {"one": "FINISHED", "two": "FINISHED"}
    logs = {name: (outcome.run_dir / "log.txt").read_text() for name, outcome in outcomes.items()}
    assert "runs/one" in logs["one"]
    assert "runs/two" not in logs["one"]
    assert "runs/two" in logs["two"]
    assert "runs/one" not in logs["two"]
    assert "cannot be repeated" in logs["one"] + logs["two"]  # the second one says it
    assert state_of_the_process() == before


def test_a_thread_of_user_code_logs_to_the_only_run(run, lab):
    outcome = run({"trainer.callbacks": [{"kind": "lab.callbacks.LogsFromThread", "every_n_epochs": 1}]})
    assert "from a thread" in (outcome.run_dir / "log.txt").read_text()
