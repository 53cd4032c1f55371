"""Parameter groups of a spec with their own learning rate or weight decay."""

import tomllib

import numpy as np
import pytest
import torch
from safetensors.torch import load

import noether
from noether.checkpoint.paths import checkpoint_folders
from noether.data.randomness import permutation
from noether.errors import SpecError

GROUPS = """
[[model.optimizer.groups]]
match = ["layers.0.*"]
lr_scale = 0.1
weight_decay = 0.0
"""


@pytest.fixture
def with_groups(tiny_spec):
    """Puts groups, written in TOML, below the optimizer of the tiny spec, and gives that a decay and a schedule."""

    def spec(toml):
        schedule = {"kind": "linear", "start": 1.0, "end": 0.5}
        groups = tomllib.loads(toml)["model"]["optimizer"]["groups"]
        table = {"kind": "AdamW", "lr": 0.02, "weight_decay": 0.3, "schedule": schedule, "groups": groups}
        tiny_spec["model"]["optimizer"] = table
        return tiny_spec

    return spec


def by_hand():
    """Train the tiny spec's model in plain PyTorch, its first layer slower and without decay."""
    arrays = np.load("train.npz")
    x, target = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y_target"])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    rates = [0.02, 0.02, 0.02 * 0.1]
    groups = [
        {"params": [model[2].weight]},
        {"params": [model[2].bias], "weight_decay": 0.0},
        {"params": list(model[0].parameters()), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.02, weight_decay=0.3, fused=True)
    update = 0
    for epoch in range(2):
        for batch in permutation(len(x), 0, epoch).split(8):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1.0 - 0.5 * update / 12)
            torch.nn.functional.mse_loss(model(x[batch]), target[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
            update += 1
    return {f"layers.{name}": tensor for name, tensor in model.state_dict().items()}


def test_a_group_trains_as_one_of_torch_does_that_is_written_by_hand(with_groups, final_weights):
    outcome = noether.run(with_groups(GROUPS), quiet=True)
    found, expected = load(final_weights(outcome)), by_hand()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_rate_that_is_logged_is_that_of_what_no_group_names(with_groups, metric_lines):
    lines = metric_lines(noether.run(with_groups(GROUPS), quiet=True))
    assert lines[1]["metrics"]["optim/lr"] == pytest.approx(0.02)


def test_the_optimizer_s_state_is_saved_by_parameter_name(with_groups):
    outcome = noether.run(with_groups(GROUPS), quiet=True)
    tensors = load((checkpoint_folders(outcome.run_dir / "checkpoints")[-1] / "optimizer.safetensors").read_bytes())
    names = {name for layer in (0, 2) for name in (f"layers.{layer}.weight", f"layers.{layer}.bias")}
    assert tensors.keys() == {f"model/{name}/{entry}" for name in names for entry in ("exp_avg", "exp_avg_sq", "step")}


def test_the_resolved_spec_holds_the_groups_and_is_the_same_run(with_groups, final_weights):
    first = noether.run(with_groups(GROUPS), quiet=True)
    again = noether.run(first.run_dir / "spec.resolved.toml", quiet=True)
    assert final_weights(again) == final_weights(first)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (("layers.0.*", "encoder.*"), "'encoder.*'"),
        (("lr_scale", "lr_factor"), "model.optimizer.groups"),
        (("lr_scale = 0.1", "lr_scale = -1.0"), "model.optimizer.groups"),
    ],
    ids=["pattern", "key", "value"],
)
def test_a_group_that_cannot_work_is_refused_before_training(with_groups, workplace, change, names):
    with pytest.raises(SpecError) as caught:
        noether.run(with_groups(GROUPS.replace(*change)), quiet=True)
    assert names in str(caught.value)
    assert not (workplace / "runs").exists()
