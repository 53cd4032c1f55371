"""A process group that exists already, as in a worker of Ray Train, is joined and left as it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

import noether
from noether.errors import UsageError

SCRIPT = """
import os, sys
import torch
import torch.distributed as dist

import noether

rank = int(os.environ["LOCAL_RANK"])
dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meeting", rank=rank, world_size=2)
for name in ("a", "b"):
    outcome = noether.run("spec.toml", run_id=name, resume="auto", quiet=True)
    assert outcome.status == "FINISHED", outcome
total = torch.ones(1)
dist.all_reduce(total)
print("the group has", int(total), "ranks")
"""


@pytest.mark.long
def test_a_group_trains_two_runs_and_is_there_afterwards(spec_file: Path, workplace: Path, processes: Callable):
    (workplace / "script.py").write_text(SCRIPT)
    places = [{"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"} for rank in range(2)]
    for end in processes([["script.py"]] * 2, [workplace] * 2, places):
        assert end.code == 0 and "the group has 2 ranks" in end.printed, end.printed
    for name in ("a", "b"):
        assert (workplace / "runs" / name / "log.rank-00001.txt").exists()
    assert len(list((workplace / "runs").iterdir())) == 2


@pytest.fixture
def group(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{workplace}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_group_of_one_is_a_run_of_one_process(spec_file: Path, group: None):
    assert noether.run(spec_file, quiet=True).status == "FINISHED"
    assert dist.is_initialized()


def test_a_group_that_the_environment_contradicts_is_refused(
    spec_file: Path, group: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError) as caught:
        noether.run(spec_file)
    assert "found 2, expected 1" in str(caught.value)


def test_a_group_without_a_backend_for_the_cpu_is_refused(spec_file: Path, monkeypatch: pytest.MonkeyPatch):
    found = {"is_initialized": True, "get_world_size": 2, "get_rank": 0, "get_backend_config": "cuda:nccl"}
    for name, answer in found.items():
        monkeypatch.setattr(dist, name, lambda answer=answer: answer)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UsageError) as caught:
        noether.run(spec_file)
    assert "cpu:gloo,cuda:nccl" in str(caught.value)
