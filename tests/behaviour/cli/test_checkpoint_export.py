"""`noether checkpoint export`: files that can be read without Noether."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import noether

OFFLINE_LOSS = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
BEST = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
EMA = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5], "eval_callbacks": [OFFLINE_LOSS, BEST]}
CHECKPOINT = {"kind": "checkpoint", "every_n_epochs": 1}


@pytest.fixture
def trained(finish):
    return finish({"trainer.callbacks": [OFFLINE_LOSS, EMA, CHECKPOINT]}, run_id="trained")


@pytest.fixture
def export(noether_command):
    """Exports; returns the file."""

    def call(*options, run="trained"):
        ended = noether_command("checkpoint", "export", run, *options)
        assert (ended.code, ended.err) == (0, ""), ended
        return Path(ended.out.split(" to ")[1].split(" (")[0])

    return call


def saved(outcome, name):
    return load_file(outcome.run_dir / "checkpoints/step-000000000012" / name)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_newest_weights_are_written_as_plain_safetensors(trained, export):
    file = export()
    assert file.name == "trained.E2_U12_S96.safetensors"
    assert equal(load_file(file), saved(trained, "model.safetensors"))


@pytest.mark.parametrize("options", [["--averages", "ema/0.5"], ["--checkpoint", "best_model.ema=0.5.loss/test/total"]])
def test_averaged_weights_are_written_by_factor_or_by_name(trained, export, options):
    file = export(*options)
    assert file.name == "trained.E2_U12_S96.ema=0.5.safetensors"
    assert equal(load_file(file), saved(trained, "callbacks/ema/0.5.safetensors"))


def test_averages_of_a_part_are_completed_with_the_live_weights(lab, finish, export):
    model = {"kind": "lab.models.EncoderDecoder", "optimizer": {"kind": "AdamW", "lr": 0.01}}
    partly = {**EMA, "model_paths": ["encoder"], "eval_callbacks": []}
    outcome = finish({"model": model, "trainer.callbacks": [partly, CHECKPOINT]}, run_id="trained")
    written = load_file(export("--averages", "ema/0.5"))
    live, averaged = saved(outcome, "model.safetensors"), saved(outcome, "callbacks/ema/0.5.safetensors")
    assert averaged.keys() < live.keys()
    assert equal(written, live | averaged)


def test_another_checkpoint_and_another_file(trained, export, workplace):
    file = export("--checkpoint", "E1_U6_S48", "--out", "models/first.safetensors")
    assert file == Path("models/first.safetensors")
    assert load_file(file).keys() == saved(trained, "model.safetensors").keys()


def test_a_torch_export_program_computes_what_the_model_does_for_any_batch(trained, export):
    file = export("--format", "torch-export")
    program = torch.export.load(file).module()
    weights = saved(trained, "model.safetensors")
    for samples in (1, 5):
        x = torch.randn(samples, 3)
        hidden = torch.nn.functional.gelu(x @ weights["layers.0.weight"].T + weights["layers.0.bias"])
        torch.testing.assert_close(program(x)["y"], hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"])


def test_a_program_of_padded_samples_is_refused_with_the_collator(lab, finish, noether_command, workplace):
    clouds = {"kind": "lab.batches.Clouds", "collate": "pad"}
    model = {"kind": "lab.batches.Pointwise", "optimizer": {"kind": "SGD", "lr": 0.1}}
    settings = {"datasets": {"train": clouds, "test": clouds}, "model": model, "trainer.loss_fn": "mse"}
    finish({**settings, "trainer.forward_properties": ["x", "mask"]}, run_id="trained")
    ended = noether_command("checkpoint", "export", "trained", "--format", "torch-export")
    assert ended.code == 2
    assert "found collate = 'pad'" in ended.err
    assert not list(workplace.glob("*.pt2"))


NORMALIZE = [{"kind": "normalize", "properties": ["x", "y_target"]}]
NEW = np.random.default_rng(1).normal(3, 20, size=(7, 3)).astype(np.float32)


@pytest.fixture
def normalized(finish):
    return noether.load_run(finish({"transforms": NORMALIZE}, run_id="trained").run_dir)


def test_a_program_takes_and_returns_the_units_of_the_data_as_predict_does(normalized, export):
    program = torch.export.load(export("--format", "torch-export")).module()
    for samples in (1, 7):
        wanted = normalized.predict({"x": NEW[:samples]})
        torch.testing.assert_close(program(torch.from_numpy(NEW[:samples]))["y"], torch.from_numpy(wanted["y"]))


def test_a_program_without_transforms_is_the_model_alone(normalized, export):
    program = torch.export.load(export("--format", "torch-export", "--no-transforms")).module()
    x = torch.randn(5, 3)
    torch.testing.assert_close(program(x)["y"], normalized.model(x=x)["y"])


def test_onnx_takes_and_returns_the_units_of_the_data_as_predict_does(normalized, export):
    pytest.importorskip("onnxscript", reason="ONNX needs the extra [onnx]")
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(str(export("--format", "onnx")))
    shapes = [
        value.type.tensor_type.shape.dim[0] for value in (*session.proto_.graph.input, *session.proto_.graph.output)
    ]
    assert {size.dim_param for size in shapes} == {"batch"}
    for samples in (1, 7):
        (found,) = session.run(["y"], {"x": NEW[:samples]})
        np.testing.assert_allclose(found, normalized.predict({"x": NEW[:samples]})["y"], rtol=1e-5, atol=1e-5)


def test_onnx_without_its_packages_is_an_error_that_names_them(normalized, noether_command, monkeypatch, workplace):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    ended = noether_command("checkpoint", "export", "trained", "--format", "onnx")
    assert ended.code == 2
    assert "help: pip install onnx onnxscript" in ended.err
    assert not list(workplace.glob("*.onnx"))


@pytest.mark.parametrize(("kind", "code"), [("Log", 0), ("Kilo", 2), ("LogForEver", 2)])
def test_transforms_of_the_project_are_inside_or_refused(lab, tiny_spec, finish, noether_command, kind, code):
    for name in ("train.npz", "test.npz"):
        with np.load(name) as file:
            arrays = {"x": file["x"], "y_target": np.exp(file["y_target"])}
        np.savez(name, **arrays)
    finish({"transforms": [{"kind": f"lab.transforms.{kind}"}]}, run_id="trained")
    ended = noether_command("checkpoint", "export", "trained", "--format", "torch-export", "--out", "model.pt2")
    assert (ended.code, Path("model.pt2").exists()) == (code, code == 0), ended
    if code == 0:
        found = torch.export.load("model.pt2").module()(torch.from_numpy(NEW))["y"]
        wanted = noether.load_run("trained").predict({"x": NEW})["y"]
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("Branching", "torch.export cannot follow this model"),
        ("Pretending", "the exported program and the model differ"),
    ],
)
def test_a_model_that_torch_export_cannot_represent_is_reported(lab, finish, noether_command, model, told):
    table = {"kind": f"lab.untraceable.{model}", "optimizer": {"kind": "AdamW", "lr": 0.01}}
    finish({"model": table, "trainer.callbacks": [CHECKPOINT]}, run_id="trained")
    ended = noether_command("checkpoint", "export", "trained", "--format", "torch-export")
    assert ended.code == 1
    assert told in ended.err
    assert "  help: " in ended.err
    assert not list(Path().glob("*.pt2"))


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--averages", "ema/0.9"], 3, "help: it holds ema/0.5"),
        (["--averages", "ema"], 3, "found 'ema'"),
        (["--checkpoint", "first"], 3, "holds no checkpoint 'first'"),
        (["--format", "pickle"], 2, "expected one of safetensors, torch-export, onnx"),
        (["--out", "train.npz"], 2, "train.npz exists already"),
    ],
)
def test_a_model_that_cannot_be_exported_is_reported(trained, noether_command, options, code, told):
    ended = noether_command("checkpoint", "export", "trained", *options)
    assert ended.code == code
    assert told in ended.err


def test_a_damaged_checkpoint_is_not_exported(trained, noether_command):
    (trained.run_dir / "checkpoints/step-000000000012/model.safetensors").write_bytes(b"")
    ended = noether_command("checkpoint", "export", "trained", "--checkpoint", "last")
    assert ended.code == 3
    assert not list(Path().glob("*.safetensors"))
