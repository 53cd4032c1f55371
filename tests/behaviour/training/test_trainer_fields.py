"""Each field of `[trainer]` has the effect that its description promises."""

import shutil

import pytest
import torch
from safetensors.torch import load

import noether

ADAM = {"kind": "AdamW", "lr": 0.01}
STABILITY = {"stability/gradient_norm", "stability/model_norm", "stability/non_finite_gradients"}
needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on the CPU, and neither g++ nor clang++ is on the PATH",
)

importing_the_compiler_warns = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")


def updates_with(lines, key):
    return [line["update"] for line in lines if key in line["metrics"]]


# Default callbacks


@pytest.mark.parametrize(
    ("interval", "updates"),
    [
        ({"track_every_n_epochs": 1}, [6, 12]),
        ({"track_every_n_updates": 5}, [5, 10]),
        ({"track_every_n_samples": 40}, [5, 10]),
    ],
    ids=str,
)
def test_metrics_of_the_default_callbacks_come_at_the_track_interval(finish, metric_lines, interval, updates):
    lines = metric_lines(finish({f"trainer.{name}": value for name, value in interval.items()}))
    assert updates_with(lines, "optim/lr") == updates


@pytest.mark.parametrize(
    ("interval", "lines"),
    [({"log_every_n_epochs": 1}, 2), ({"log_every_n_updates": 3}, 4), ({"log_every_n_samples": 48}, 2)],
    ids=str,
)
def test_progress_comes_at_the_log_interval(finish, tiny_spec, capsys, interval, lines):
    noether.run(tiny_spec, set={f"trainer.{name}": value for name, value in interval.items()})
    printed = capsys.readouterr()
    assert sum("updates/s" in line or "update/s" in line for line in (printed.out + printed.err).splitlines()) == lines


def test_without_default_callbacks_a_run_logs_only_the_metrics_of_the_spec(finish):
    assert finish({"trainer.add_default_callbacks": False}).metrics == {}


# Stability


@pytest.mark.parametrize("settings", [{}, {"max_batch_size": 4}, {"precision": "bf16"}, {"precision": "fp16"}], ids=str)
def test_stability_is_watched_at_the_monitor_interval(finish, metric_lines, settings):
    changes = {"monitor_training_stability": True, "monitor_interval": 5, **settings}
    lines = metric_lines(finish({f"trainer.{name}": value for name, value in changes.items()}))
    for key in STABILITY:
        assert updates_with(lines, key) == [5, 10]
    assert updates_with(lines, "stability/grad_scale") == ([5, 10] if settings.get("precision") == "fp16" else [])


@pytest.mark.parametrize("settings", [{}, {"max_batch_size": 4}, {"precision": "fp16"}], ids=str)
def test_the_norm_of_stability_is_that_before_clipping_and_after_unscaling(finish, metric_lines, settings):
    changes = {"monitor_training_stability": True, "monitor_interval": 1, **settings}
    clip = {"model.optimizer.clip_grad_norm": 1e-3}
    for line in metric_lines(finish({**clip, **{f"trainer.{name}": value for name, value in changes.items()}}))[1:]:
        metrics = line["metrics"]
        assert metrics["optim/grad_norm"] == pytest.approx(metrics["stability/gradient_norm"], rel=1e-4)
        assert metrics["optim/grad_norm"] > 1e-3


# The compiler

COMPILED = {"trainer.use_torch_compile": True}
WATCH = {"trainer.callbacks": [{"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test", "batch_size": 5}]}


@needs_a_compiler
@importing_the_compiler_warns
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "model",
    [
        {"kind": "mlp", "hidden": [8], "optimizer": ADAM},
        {"kind": "lab.models.EncoderDecoder", "optimizer": ADAM},
        {"kind": "lab.models.Line", "optimizer": ADAM},
    ],
    ids=["built in", "composite", "adapted"],
)
def test_a_compiled_model_ends_like_the_eager_one_under_its_own_names(finish, final_weights, lab, model):
    changes = {"model": model, **WATCH, "trainer.max_batch_size": 4}
    eager, compiled = finish(changes), finish({**changes, **COMPILED})
    expected, found = load(final_weights(eager)), load(final_weights(compiled))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    assert compiled.metrics["loss/test/total"] == pytest.approx(eager.metrics["loss/test/total"], rel=1e-4)


@needs_a_compiler
@importing_the_compiler_warns
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_model_can_be_evaluated_only(finish):
    changes = {**WATCH, "trainer.max_epochs": 0}
    eager, compiled = finish(changes), finish({**changes, **COMPILED})
    assert compiled.metrics["loss/test/total"] == pytest.approx(eager.metrics["loss/test/total"], rel=1e-4)
