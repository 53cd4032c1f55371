"""The trainers of the page `write-a-trainer` as a reader would run them."""

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import noether
from noether.runs.deep_check import deep_check
from noether.runs.outcome import Outcome
from noether.runs.resume.verify_resume import verify_resume
from noether.spec.load import load_spec

QUICK = {"trackers": [{"kind": "noop"}], "threads": 1, "device": "cpu"}
STAND_IN = '''
import torch


class VisionTransformer(torch.nn.Module):
    """Takes the place of a model of timm, which is not installed with Noether."""

    def __init__(self, pixels, classes, width):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(pixels, width), torch.nn.GELU(), torch.nn.Linear(width, classes)
        )

    def forward(self, x):
        return self.layers(x)


def create_model(model_name: str, pretrained: bool = False, **kwargs):
    return VisionTransformer(kwargs["in_chans"] * kwargs["img_size"] ** 2, kwargs["num_classes"], kwargs["embed_dim"])
'''


@pytest.fixture
def written(page, project: Path, stand_in: Path) -> Path:
    """The files of the page, and its data."""
    how_to = page["write-a-trainer.md"]
    how_to.write_files(project)
    for block in how_to.blocks("python"):
        if block.mark.startswith("run: "):
            exec(block.text, {})
    return project


@pytest.fixture
def stand_in(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `timm` outside of the project, also where the real one is installed."""
    packages = tmp_path_factory.mktemp("packages")
    (packages / "timm.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(packages)
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "timm"}
    yield packages
    sys.modules.pop("timm", None)
    sys.modules.update(real)


@pytest.fixture
def finish(written: Path) -> Callable[..., Outcome]:
    """Runs a spec of the page to a good end, with changes."""

    def finished(spec: str, **changes: Any) -> Outcome:
        trust = ["timm"] if spec == "masked.toml" else []
        outcome = noether.run(spec, set={**QUICK, **changes}, quiet=True, trust=trust)
        assert outcome.error is None, outcome.error
        return outcome

    return finished


def test_two_losses_are_logged_by_name_with_their_sum_and_the_trainers_own_metric(finish):
    metrics = finish("two-losses.toml", **{"trainer.max_epochs": 2}).metrics
    for place in ("online", "test"):
        parts = metrics[f"loss/{place}/label"] + metrics[f"loss/{place}/drawing"]
        assert metrics[f"loss/{place}/total"] == pytest.approx(parts, rel=1e-4)
    assert metrics["accuracy"] > 0.5 < metrics["accuracy/test"]


def test_the_contract_of_two_losses_passes(page, written, noether_registry, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(written)
    noether_registry("trainer", "read-and-draw", import_module("lessons.two_losses").ReadAndDrawTrainer)
    (block,) = (one for one in page["write-a-trainer.md"].blocks("python") if one.mark.startswith("contract of"))
    exec(block.text, shown := {})
    contract = shown["TestReadAndDraw"]()
    contract.test_accumulation_gives_the_same_update(tmp_path)
    contract.test_its_losses_are_logged_by_name(tmp_path)


def test_the_oscillator_moves_as_its_equation_says_and_is_evaluated(finish):
    changes = {f"trainer.callbacks.{place}.every_n_epochs": 40 for place in (0, 1)}
    metrics = finish("oscillator.toml", **{"trainer.max_epochs": 40, **changes}).metrics
    assert metrics["rmse/test/u"] < 0.3, "u of nought would be 0.7 off"
    assert 0 < metrics["residual/test/largest"] < 2


def test_the_residual_of_a_data_set_is_that_of_the_same_batch_in_training(finish):
    losses = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "train"}
    frozen = {
        "trainer.max_epochs": 1,
        "trainer.effective_batch_size": 256,
        "model.optimizer": {"kind": "SGD", "lr": 1e-12},
    }
    metrics = finish("oscillator.toml", **frozen, **{"trainer.callbacks": [losses]}).metrics
    for name in ("residual", "start", "total"):
        assert metrics[f"loss/train/{name}"] == pytest.approx(metrics[f"loss/online/{name}"], rel=1e-4)


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    return load_file(max((outcome.run_dir / "checkpoints").glob("step-*")) / "model.safetensors")


def test_each_adversary_is_trained_by_its_own_loss_and_optimizer(finish):
    start, first, second = (
        weights(finish("adversaries.toml", **{"trainer.max_epochs": None, "trainer.generator_every": 2, **limit}))
        for limit in (
            {"trainer.max_updates": 1, "model.generator.optimizer.lr": 0.0, "model.critic.optimizer.lr": 0.0},
            {"trainer.max_updates": 1},
            {"trainer.max_updates": 2},
        )
    )
    for part in ("generator", "critic"):
        name = f"{part}.layers.0.weight"
        assert not torch.equal(start[name], first[name])
        assert torch.equal(first[name], second[name]) is (part == "generator"), "every other update leaves it out"


def test_a_masked_autoencoder_of_a_trusted_package_learns(finish):
    outcome = finish("masked.toml", **{"trainer.max_epochs": 3})
    lines = (json.loads(line)["metrics"] for line in (outcome.run_dir / "metrics.jsonl").read_text().splitlines())
    first, *_, last = [line["loss/test/hidden"] for line in lines if "loss/test/hidden" in line]
    assert last < first


TRAINERS = ["two-losses.toml", "two-losses.toml balanced", "oscillator.toml", "adversaries.toml", "masked.toml"]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_of_the_page_passes_the_deep_check_and_resumes_bit_for_bit(written: Path, name: str):
    spec, _, balanced = name.partition(" ")
    losses = '{ kind = "offline-loss", every_n_updates = 1, dataset_key = "train" }'
    overrides = ['trackers = [{ kind = "noop" }]', "threads = 1", 'device = "cpu"', f"trainer.callbacks = [{losses}]"]
    if balanced:
        overrides.append("trainer.kind=lessons.balanced.BalancedTrainer")
    assert deep_check(load_spec(spec, overrides, trust=["timm"])) == []
    report = verify_resume(spec, overrides=overrides, at=[2], updates=4, trusted=["timm"])
    assert report.is_equal, [point.difference for point in report.points]


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["oscillator.toml", "adversaries.toml"])
def test_a_train_step_that_cannot_be_one_graph_gives_way_to_eager_updates(finish, spec: str):
    callbacks = {"trainer.callbacks": [], "trainer.max_epochs": 1}
    plain, other = (finish(spec, **callbacks, **{"trainer.update": form}) for form in ("eager", "compiled"))
    assert "updates are eager" in (other.run_dir / "log.txt").read_text()
    assert all(torch.equal(weight, weights(other)[name]) for name, weight in weights(plain).items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_a_compiled_model_cannot_be_differentiated_twice(written: Path):
    changes = {**QUICK, "trainer.callbacks": [], "trainer.max_epochs": 1, "trainer.use_torch_compile": True}
    outcome = noether.run("oscillator.toml", set=changes, quiet=True)
    assert "double backward" in str(outcome.error)
