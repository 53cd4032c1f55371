"""Exceptions that end a loop, a run or a process, raised by code of the data: each is an error with its place."""

from pathlib import Path

import pytest
import tomli_w

CODE = """
import sys
import torch
from noether.data.collators import stack
from noether.data.dataset import Dataset
from noether.data.transforms import Transform
from noether.kernel.progress import EarlyStopIteration


def fail(name):
    if name == "sys.exit":
        sys.exit(0)
    if name == "next":
        next(iter([]))
    raise {"EarlyStopIteration": EarlyStopIteration}.get(name) or getattr(__import__("builtins"), name)


class Samples(torch.utils.data.Dataset):
    def __init__(self, error: str = "", place: str = "sample", bad: int = 37):
        self.error, self.place, self.bad = error, place, bad
        if place == "constructor":
            fail(error)

    def __len__(self):
        if self.place == "length":
            fail(self.error)
        return 48

    def __getitem__(self, index):
        if self.place == "sample" and self.error and index == self.bad:
            fail(self.error)
        return {"x": torch.full((3,), index / 48), "y_target": torch.ones(2), "index": torch.tensor(index)}


class Batches(Dataset):
    deterministic = True

    def __init__(self, error: str = ""):
        self.error = error

    def __len__(self):
        return 48

    def __getitems__(self, indices):
        if 37 in list(indices):
            fail(self.error)
        x = torch.zeros(len(indices), 3)
        return {"x": x, "y_target": x[:, :2]}


class Fails(Transform):
    def __init__(self, error: str = ""):
        super().__init__()
        self.error = error

    def __call__(self, sample):
        if sample["index"] == 37:
            fail(self.error)
        return sample


def collate(samples, error: str = ""):
    if any(sample["index"] == 37 for sample in samples):
        fail(error)
    return stack(samples)
"""
ERRORS = [
    "StopIteration",
    "next",
    "StopAsyncIteration",
    "GeneratorExit",
    "SystemExit",
    "sys.exit",
    "EarlyStopIteration",
]
METRICS = {"kind": "offline-metrics", "every_n_epochs": 1, "dataset_key": "test", "metrics": {"y": ["rmse"]}}


@pytest.fixture
def data(lab):
    (lab / "ends.py").write_text(CODE)
    return lab / "ends.py"


def spec(train=None, test=None, workers=0):
    return {
        "datasets": {
            key: {"kind": "lab.ends.Samples", **(own or {})} for key, own in (("train", train), ("test", test))
        },
        "loader.num_workers": workers,
        "trainer.callbacks": [METRICS],
    }


def shown(outcome):
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    return "\n".join([str(outcome.error), *getattr(outcome.error, "__notes__", ())])


def names(error):
    return {"next": "StopIteration", "sys.exit": "SystemExit"}.get(error, error)


@pytest.mark.parametrize(("error", "key"), [*((error, "train") for error in ERRORS), ("next", "test")])
def test_a_sample_is_named_with_its_data_set_and_line(run, data, error, key):
    text = shown(run(spec(**{key: {"error": error}})))
    assert names(error) in text
    assert f"sample 37 of the data set '{key}'" in text
    assert "ends.py:" in text
    assert "raised by" not in text


@pytest.mark.parametrize(
    ("error", "key"),
    [("next", "test"), ("sys.exit", "train"), ("KeyboardInterrupt", "train"), ("GeneratorExit", "train")],
)
def test_a_sample_in_a_worker_is_named_as_well(run, data, error, key):
    text = shown(run(spec(**{key: {"error": error}}, workers=1)))
    assert names(error) in text
    assert f"sample 37 of the data set '{key}'" in text
    assert "ends.py:" in text
    assert "raised by" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(("error", "workers"), [("next", 0), ("sys.exit", 1)])
@pytest.mark.parametrize("place", ["transform", "collator", "batch"])
def test_transforms_collators_and_whole_batches_are_named_too(run, data, error, place, workers):
    tables = {
        "transform": {"transforms": [{"kind": "lab.ends.Fails", "error": error}]},
        "collator": {"collate": {"kind": "lab.ends.collate", "error": error}},
        "batch": {"kind": "lab.ends.Batches", "error": error},
    }
    text = shown(run(spec(tables[place], workers=workers)))
    assert names(error) in text
    assert "37" in text
    assert "the data set 'train'" in text
    assert "ends.py:" in text


@pytest.mark.parametrize(
    ("error", "verb"), [("next", ["run"]), ("sys.exit", ["check", "--deep"]), ("ValueError", ["plan"])], ids=str
)
@pytest.mark.parametrize("options", [{"bad": 0}, {"place": "constructor"}, {"place": "length"}], ids=str)
def test_an_error_before_training_is_told_without_a_traceback(noether_command, data, tiny_spec, error, options, verb):
    tiny_spec["datasets"]["train"] = {"kind": "lab.ends.Samples", "error": error, **options}
    Path("ends.toml").write_text(tomli_w.dumps({"spec": 1, **tiny_spec}))
    ended = noether_command(*verb, "ends.toml")
    assert ended.code in (1, 2)
    assert names(error) in ended.err
    assert "Traceback" not in ended.err
    assert not Path("runs").exists()


def test_an_error_of_the_data_in_a_pass_does_not_blame_the_callback_that_reads_them(run, data):
    for workers in (0, 1):
        outcome = run(spec(test={"error": "ValueError"}, workers=workers))
        assert type(outcome.error) is ValueError
        notes = "\n".join(outcome.error.__notes__)
        assert "sample 37 of the data set 'test'" in notes
        assert "raised by" not in notes
        assert "read by callback" in notes


def test_an_error_of_a_worker_has_its_line_in_the_command_and_its_traceback_in_the_log(
    noether_command, data, tiny_spec
):
    tiny_spec["datasets"]["train"] = {"kind": "lab.ends.Samples", "error": "ZeroDivisionError"}
    tiny_spec["loader"] = {"num_workers": 1}
    Path("ends.toml").write_text(tomli_w.dumps({"spec": 1, **tiny_spec}))
    ended = noether_command("run", "ends.toml", "-q", "--run-id", "a")
    assert ended.code == 1
    assert "ends.py:" in ended.err
    assert "Traceback" not in ended.err
    assert "in fail" in Path("runs/a/log.txt").read_text()
