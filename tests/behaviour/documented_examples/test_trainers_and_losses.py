"""The examples of a custom trainer and of custom losses."""

import numpy as np
import pytest
import torch
from safetensors.torch import load

from noether.data.randomness import permutation

CALLBACKS = "lab.documented.callbacks"


def losses_by_hand(loss_fn, updates=12, batch_size=8, seed=0):
    """Train the tiny spec's model in plain PyTorch and return the loss of each update."""
    arrays = np.load("train.npz")
    x, target = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y_target"])
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    order = torch.cat([permutation(len(x), seed, epoch) for epoch in range(2)])
    losses = []
    for batch in order.split(batch_size)[:updates]:
        loss = loss_fn(model(x[batch]), target[batch])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model


def online(lines, name="total"):
    key = f"loss/online/{name}"
    return [line["metrics"][key] for line in lines if key in line["metrics"]]


@pytest.fixture
def plain(tiny_spec):
    """The tiny spec without weight decay, for a custom trainer."""
    tiny_spec["model"]["optimizer"]["weight_decay"] = 0.0
    del tiny_spec["trainer"]["field_weights"]
    return tiny_spec


def test_a_custom_trainer_trains_with_its_own_loss(finish, plain, lab, metric_lines, final_weights):
    plain["trainer"]["kind"] = "lab.documented.trainers.MyTrainer"
    outcome = finish()
    losses, model = losses_by_hand(torch.nn.functional.l1_loss)
    assert online(metric_lines(outcome)) == pytest.approx(losses, rel=1e-5)
    assert online(metric_lines(outcome), "loss") == online(metric_lines(outcome))
    for name, tensor in load(final_weights(outcome)).items():
        assert torch.allclose(tensor, model.state_dict()[name.removeprefix("layers.")], rtol=1e-5, atol=1e-6), name


def test_a_custom_trainer_has_callbacks_like_any_other(finish, plain, lab):
    watch = {"kind": "noether.training.callbacks.OfflineLossCallback", "every_n_epochs": 1, "dataset_key": "test"}
    plain["trainer"] |= {"kind": "lab.documented.trainers.MyTrainer", "callbacks": [watch]}
    _, model = losses_by_hand(torch.nn.functional.l1_loss)
    arrays = np.load("test.npz")
    expected = torch.nn.functional.l1_loss(
        model(torch.from_numpy(arrays["x"])), torch.from_numpy(arrays["y_target"])
    ).item()
    assert finish().metrics["loss/test/total"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("loss_fn", "by_hand"),
    [
        ("l1", torch.nn.functional.l1_loss),
        (None, torch.nn.functional.mse_loss),
        (
            "lab.documented.losses.weighted_huber",
            lambda input, target: (
                torch.nn.functional.huber_loss(input, target, reduction="none") * torch.tensor([2.0, 1.0])
            ).mean(),
        ),
    ],
    ids=["l1", "mse by default", "custom"],
)
def test_the_weighted_loss_is_the_one_that_the_spec_names(finish, tiny_spec, lab, metric_lines, loss_fn, by_hand):
    tiny_spec["model"]["optimizer"]["weight_decay"] = 0.0
    lines = metric_lines(finish({"trainer.loss_fn": loss_fn} if loss_fn else None))
    losses, _ = losses_by_hand(by_hand)
    assert online(lines) == pytest.approx(losses, rel=1e-5)
    assert online(lines, "y_loss") == online(lines)
