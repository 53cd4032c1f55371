"""Cost of logging in the training thread, compared with its minimum: a value put into a dict."""

import io
import json

import pytest
import torch

from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricsFile

KEYS = [f"loss/online/{name}" for name in ("total", "pressure", "velocity", "drag", "lift")]
ROUNDS = {"rounds": 200, "iterations": 500, "warmup_rounds": 5}


@pytest.fixture
def writer(tmp_path):
    opened = LogWriter(MetricsFile(tmp_path / "metrics.jsonl"))
    yield opened
    opened.close()


@pytest.fixture
def counter():
    return UpdateCounter(TrainingIteration(1, 50, 3200), TrainingIteration(epoch=30), 50, 64)


@pytest.mark.benchmark(group="add_scalar: float")
def test_dict_with_float(benchmark):
    values = {}
    benchmark.pedantic(values.__setitem__, (KEYS[0], 0.31), **ROUNDS)


@pytest.mark.benchmark(group="add_scalar: float")
def test_add_scalar_with_float(benchmark, writer):
    benchmark.pedantic(writer.add_scalar, (KEYS[0], 0.31), **ROUNDS)
    assert writer.current(KEYS[0]) == 0.31


@pytest.mark.benchmark(group="add_scalar: tensor")
def test_dict_with_tensor_item(benchmark):
    values, tensor = {}, torch.tensor(0.5)
    benchmark.pedantic(lambda: values.__setitem__(KEYS[0], tensor.item()), **ROUNDS)


@pytest.mark.benchmark(group="add_scalar: tensor")
def test_add_scalar_with_tensor(benchmark, writer):
    benchmark.pedantic(writer.add_scalar, (KEYS[0], torch.tensor(0.5)), **ROUNDS)
    assert writer.current(KEYS[0]) == 0.5


@pytest.mark.benchmark(group="a boundary with five metrics")
def test_json_line_with_flush(benchmark, tmp_path):
    def boundary(file: io.TextIOWrapper):
        metrics = dict.fromkeys(KEYS, 0.31)
        line = {"update": 50, "epoch": 1, "sample": 3200, "time": 0.0, "metrics": metrics}
        file.write(json.dumps(line) + "\n")
        file.flush()

    with (tmp_path / "plain.jsonl").open("a") as file:
        benchmark.pedantic(boundary, (file,), rounds=200, iterations=50, warmup_rounds=5)


@pytest.mark.benchmark(group="a boundary with five metrics")
def test_five_scalars_and_flush(benchmark, writer, counter):
    def boundary():
        for key in KEYS:
            writer.add_scalar(key, 0.31)
        writer.flush(counter)

    benchmark.pedantic(boundary, rounds=200, iterations=50, warmup_rounds=5)
    assert writer.final_metrics == dict.fromkeys(KEYS, 0.31)
