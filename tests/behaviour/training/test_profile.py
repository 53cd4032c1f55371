"""`noether run --profile`: the same run with a table in the log and a trace in the run folder."""

import json
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
import tomli_w
import torch

from noether.runs import launch
from noether.runs.measure.profile import Profile, peak_of

CALLBACKS = [
    {"kind": "online-loss", "id": "losses", "every_n_updates": 4},
    {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"},
]
LONG = {"trainer.max_epochs": 12, "trainer.callbacks": CALLBACKS, "model.dropout": 0.1}


@pytest.fixture
def profiled(finish):
    def run(changes=None, **options):
        return finish(LONG | (changes or {}), profile=True, **options)

    return run


def names_in(outcome):
    events = json.loads((outcome.run_dir / "trace.json").read_text())["traceEvents"]
    return {event["name"] for event in events}


def test_the_weights_are_those_of_the_run_without_it(finish, profiled, final_weights):
    assert final_weights(profiled()) == final_weights(finish(LONG))


@pytest.mark.parametrize("steps", [1, 2], ids=["one accumulation step", "two"])
def test_the_trace_has_a_named_range_for_each_part_and_hook(profiled, steps):
    found = names_in(profiled({"trainer.max_batch_size": 8 // steps}))
    assert {
        "noether/data",
        "noether/forward",
        "noether/losses/track_after_accumulation_step",
        "noether/losses/periodic_callback",
        "noether/offline-loss/after_epoch",
        "Optimizer.step#AdamW.step",
        "ProfilerStep#12",
    } <= found
    assert "ProfilerStep#50" not in found  # a trace of a whole run would be too large to open


def test_the_log_has_the_costs_of_an_update_and_of_each_hook(profiled):
    log = (profiled().run_dir / "log.txt").read_text()
    assert "trace of 20 updates: " in log
    for part in ("data", "forward", "backward", "update"):
        assert f"noether.profile:   {part} " in log
    assert re.search(r"losses +track_after_accumulation_step +[0-9.,]+ +[0-9.]+% +1\n", log)
    # 8 samples, weights of 3 x 8 and 8 x 2; forward, and backward to all weights and to the hidden layer
    flops = 2 * 8 * (3 * 8 + 8 * 2) * 2 + 2 * 8 * 8 * 2
    assert f"model FLOPs of an update: {flops:,} " in log
    assert "utilisation" not in log


def test_two_accumulation_steps_have_the_flops_of_one(profiled):
    def flops(outcome):
        return next(line for line in (outcome.run_dir / "log.txt").read_text().splitlines() if "FLOPs" in line)[-80:]

    assert flops(profiled({"trainer.max_batch_size": 4})) == flops(profiled())


def test_nothing_else_is_printed(tiny_spec, tmp_path):
    """In a process of its own: torch's profiler decides once in a process if it prints lines."""
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(tiny_spec))
    command = [sys.executable, "-m", "noether", "run", "tiny.toml", "--quiet", "--profile"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stderr == ""


def test_a_run_that_is_too_short_has_a_trace_only(profiled):
    outcome = profiled({"trainer.max_epochs": None, "trainer.max_updates": 2, "trainer.callbacks": []})
    assert "noether/forward" in names_in(outcome)
    assert "too short" in (outcome.run_dir / "log.txt").read_text()


def test_a_run_that_fails_says_why_and_keeps_its_profile(run, lab):
    fails = {"kind": "lab.callbacks.Fails", "every_n_updates": 30, "at_update": 30}
    outcome = run(LONG | {"trainer.callbacks": [fails]}, profile=True)
    assert outcome.status == "FAILED"
    assert "noether/forward" in names_in(outcome)


def test_a_profile_that_cannot_be_written_is_a_warning(finish, monkeypatch, caplog):
    def refuses(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("noether.runs.measure.profile.replace_file", refuses)
    outcome = finish(LONG, profile=True)
    assert outcome.status == "FINISHED"
    assert "the profile is incomplete: OSError" in (outcome.run_dir / "log.txt").read_text()


def test_ranges_of_nvtx_are_opened_and_closed_in_order(finish, monkeypatch):
    opened, seen = [], []

    @contextmanager
    def nvtx(name):
        opened.append(name)
        seen.append(name)
        yield
        assert opened.pop() == name

    monkeypatch.setattr(launch, "_profile", lambda: Profile(nvtx))
    finish(LONG, profile=True)
    assert opened == []
    assert seen.count("noether/losses/track_after_accumulation_step") == 72
    assert {"noether/data", "noether/forward"} <= set(seen)


def test_without_the_option_no_range_is_compiled_and_the_stream_is_read_as_it_is(finish, monkeypatch):
    monkeypatch.setattr(Profile, "_ranged", None)
    monkeypatch.setattr(Profile, "_stream", None)
    outcome = finish(LONG)
    assert not (outcome.run_dir / "trace.json").exists()


def test_the_peak_of_a_device_is_known_or_not(monkeypatch):
    assert peak_of(torch.device("cpu"), None) is None
    for name, dtype, peak in [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA A100-SXM4-80GB", None, 19.5e12),
        ("another", torch.float16, None),
    ]:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_of(torch.device("cuda"), dtype) == peak
