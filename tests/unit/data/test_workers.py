"""Workers that cannot be started, that import a script without a guard, or whose errors cannot be sent."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import noether
from noether.data.container import DataContainer
from noether.data.dataset import Dataset, InMemoryDataset
from noether.data.loader import refuse_import_by_worker
from noether.data.workers import STARTED_BY_US, UNGUARDED
from noether.errors import DataError, UsageError


@pytest.fixture
def being_imported(monkeypatch):
    """Pretends that this process is a new one that imports the script of its parent."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    monkeypatch.delenv(STARTED_BY_US, raising=False)
    return monkeypatch


def test_a_run_in_the_script_that_a_new_process_imports_is_refused_before_anything_is_built(being_imported, tiny_spec):
    with pytest.raises(UsageError) as caught:
        noether.run(tiny_spec)
    assert "__main__" in caught.value.hint
    assert not Path("runs").exists()
    with pytest.raises(UsageError):
        DataContainer({"train": InMemoryDataset({"x": torch.ones(2)})})


def test_a_worker_of_a_run_ends_without_a_word(being_imported):
    codes = []
    being_imported.setenv(STARTED_BY_US, "1")
    being_imported.setattr(os, "_exit", codes.append)
    with pytest.raises(UsageError):  # os._exit does not return
        refuse_import_by_worker()
    assert codes == [UNGUARDED]


def test_data_that_cannot_be_sent_to_a_worker_are_an_error_before_it_starts():
    data = DataContainer({"train": Held(lambda: 1)}, num_workers=1, start_method="spawn")
    with pytest.raises(DataError) as caught:
        iter(data.build_loader(batch_size=1, end_update=1))
    assert "spawn" in str(caught.value)
    assert STARTED_BY_US not in os.environ


class Held(Dataset):
    def __init__(self, held):
        super().__init__()
        self.held = held

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 3:
            raise self.held(index, "words")
        return {"x": torch.tensor(index)}


class TwoArgumentsError(Exception):
    """Cannot be unpickled."""

    def __init__(self, index, words):
        super().__init__(f"{words} about {index}")


def test_an_error_that_cannot_be_sent_keeps_its_text_and_its_notes():
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(TwoArgumentsError(1, "words")))
    data = DataContainer({"train": Held(TwoArgumentsError)}, num_workers=1)
    with pytest.raises(RuntimeError) as caught:
        list(data.build_loader(batch_size=4, end_update=1))
    assert str(caught.value) == "TwoArgumentsError: words about 3"
    assert caught.value.__notes__ == ["while loading sample 3 of the data set 'train' (Held)"]
    assert "test_workers.py" in caught.value.raised_at


SCRIPT = """
    import torch
    from noether.data.container import DataContainer
    from noether.data.dataset import InMemoryDataset

    print("imported")
    samples = InMemoryDataset({{"x": torch.arange(8.0)}})
    data = DataContainer({{"train": samples}}, num_workers=2, start_method="{method}")
    list(data.build_loader(batch_size=4, end_update=4))
"""


@pytest.mark.long
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard_is_told_once(method, workplace):
    Path("script.py").write_text(textwrap.dedent(SCRIPT.format(method=method)))
    ended = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("TrainingError: the script begins a run again") == 1
    assert ended.stderr.count("Traceback") == 1
    assert ended.stdout.count("imported") in (2, 3)  # the second worker may be killed before it says so
