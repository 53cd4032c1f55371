"""`threads = "auto"`: as many as pay for the model, on the cores that the process may use; pinned for a resume."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import noether
from noether.checkpoint.paths import PathProvider
from noether.runs.outcome import Outcome
from noether.runs.prepare import rehearsal
from noether.runs.process_state import WORK_OF_A_THREAD, ThreadChoice, choose_threads, multiply_adds, usable_cores
from noether.spec.errors.problem import InvalidSpecError
from noether.spec.load import load_spec

CPU = torch.device("cpu")
EIGHT = 8, "the process may run on 8 cores"


def spec_of(tiny_spec: dict[str, Any], **changes: Any) -> Any:
    return load_spec({**tiny_spec, "threads": "auto"}, set=changes).spec


def chosen(spec: Any, model: nn.Module, device: torch.device = CPU, cores: tuple[int, str] = EIGHT) -> int:
    return choose_threads(spec, model, {"x": torch.zeros(3)}, device, cores).number


# Choice


@pytest.mark.parametrize(
    ("work", "threads"),
    [(0, 1), (WORK_OF_A_THREAD, 1), (2 * WORK_OF_A_THREAD, 2), (5 * WORK_OF_A_THREAD, 5), (50 * WORK_OF_A_THREAD, 8)],
)
def test_a_thread_is_added_for_each_amount_of_work_up_to_the_cores(
    tiny_spec: dict[str, Any], work: int, threads: int
) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty(work // 8, device="meta"))
    assert chosen(spec_of(tiny_spec), model) == threads


def test_a_smaller_batch_is_less_work(tiny_spec: dict[str, Any]) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty(WORK_OF_A_THREAD // 2, device="meta"))
    assert chosen(spec_of(tiny_spec), model) == 4
    assert chosen(spec_of(tiny_spec, **{"trainer.max_batch_size": 4}), model) == 2


def test_one_thread_feeds_an_accelerator(tiny_spec: dict[str, Any]) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty(50 * WORK_OF_A_THREAD, device="meta"))
    assert chosen(spec_of(tiny_spec), model, torch.device("cuda")) == 1


def test_a_number_in_the_spec_is_kept(tiny_spec: dict[str, Any]) -> None:
    assert chosen(load_spec({**tiny_spec, "threads": 3}).spec, nn.Linear(3, 2)) == 3


@pytest.mark.parametrize("threads", [0, -1, "many", 1.5, True])
def test_anything_but_auto_and_a_positive_number_is_refused(tiny_spec: dict[str, Any], threads: Any) -> None:
    with pytest.raises(InvalidSpecError) as raised:
        load_spec({**tiny_spec, "threads": threads})
    assert [problem.path for problem in raised.value.problems] == [("threads",)]


# Work


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(3, 5, bias=False), (3,), 15),
        (nn.Linear(3, 5, bias=False), (100, 3), 1500),
        (nn.Conv2d(3, 4, 5, bias=False), (3, 8, 8), 300 * 64),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 2, bias=False)), (3, 8, 8), 384),
        (nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 4, bias=False)), (10,), 160),
    ],
    ids=["layer", "layer of points", "convolution", "flattened image", "tokens"],
)
def test_a_weight_counts_for_every_place_that_uses_it(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert multiply_adds(model, {"x": torch.zeros(shape)}) == expected


# Cores


def files(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name.replace("__", "/").replace("_of_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 16 cores, all of which the process may run on."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("groups", "cores"),
    [
        ({}, 16),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpu_of_max": "300000 100000\n"}, 3),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpu_of_max": "50000 100000\n"}, 1),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpu_of_max": "max 100000\n"}, 16),
        ({"proc__self__cgroup": "0::/job/one\n", "sys__fs__cgroup__job__cpu_of_max": "200000 100000\n"}, 2),
        (
            {
                "proc__self__cgroup": "4:cpu,cpuacct:/job\n0::/\n",
                "sys__fs__cgroup__cpu__job__cpu_of_cfs_quota_us": "400000\n",
                "sys__fs__cgroup__cpu__job__cpu_of_cfs_period_us": "100000\n",
            },
            4,
        ),
        ({"proc__self__cgroup": "nonsense\n", "sys__fs__cgroup__cpu_of_max": "\n"}, 16),
    ],
    ids=["none", "quota", "part of a core", "no quota", "of a group above", "version 1", "nonsense"],
)
def test_the_quota_of_a_control_group_bounds_the_cores(tmp_path: Path, groups: dict[str, str], cores: int) -> None:
    assert usable_cores(files(tmp_path, **groups))[0] == cores


@pytest.mark.usefixtures("many")
def test_the_cores_that_the_process_may_run_on_bound_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable_cores(tmp_path)[0] == 2


@pytest.mark.usefixtures("many")
def test_the_cores_of_the_process_are_named_though_pytorch_counts_as_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert usable_cores(tmp_path) == (1, "the process may run on 1 core")


@pytest.mark.usefixtures("many")
def test_omp_num_threads_bounds_them_and_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    cores, words = usable_cores(tmp_path)
    assert cores == 3
    assert "OMP_NUM_THREADS" in words


# Runs


def test_the_resolved_spec_pins_the_number_that_the_run_computes_with(
    tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noether.runs.prepare.choose_threads", lambda *_: ThreadChoice(2, "why"))
    before = torch.get_num_threads()
    with rehearsal(load_spec({**tiny_spec, "threads": "auto"})) as run:
        assert torch.get_num_threads() == run.threads.number == run.spec.threads == 2
        assert tomllib.loads(run.resolved)["threads"] == 2
    assert torch.get_num_threads() == before


def test_a_resume_with_auto_keeps_the_number_of_the_earlier_attempt(
    finish: Callable[..., Outcome], tiny_spec: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = {"trainer.callbacks": [{"kind": "checkpoint", "every_n_epochs": 1}]}
    finish({"threads": 2, **callbacks}, run_id="one")
    tiny_spec["threads"] = "auto"
    finish({"trainer.max_epochs": 3, **callbacks}, run_id="one", resume="auto")
    assert tomllib.loads(PathProvider("runs", "one").resolved_spec_path.read_text())["threads"] == 2
    assert "last bits" not in capsys.readouterr().err


def test_a_resume_with_another_number_is_warned_that_its_last_bits_differ(
    finish: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = {"trainer.callbacks": [{"kind": "checkpoint", "every_n_epochs": 1}]}
    finish({"threads": 1, **callbacks}, run_id="one")
    finish({"threads": 2, "trainer.max_epochs": 3, **callbacks}, run_id="one", resume="auto")
    assert "the run continues, but its last bits will differ: threads: 1 → 2" in capsys.readouterr().out


def test_data_and_model_are_built_with_one_thread_whatever_the_spec_says(
    tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    build = noether.runs.prepare.build_model
    monkeypatch.setattr(
        "noether.runs.prepare.build_model", lambda *given: (seen.append(torch.get_num_threads()), build(*given))[1]
    )
    with rehearsal(load_spec({**tiny_spec, "threads": 2})):
        assert seen == [1]
