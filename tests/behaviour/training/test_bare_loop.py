"""A run equals a hand-written training loop, bit by bit."""

import numpy as np
import torch
from safetensors.torch import load

from noether.data.randomness import permutation

EPOCHS, BATCH, SEED = 2, 8, 3


def by_hand(lr=0.01, weight_decay=0.1, clip=None, factor=lambda update: 1.0):
    """Train the tiny spec's model in plain PyTorch and return its state."""
    arrays = np.load("train.npz")
    x, target = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y_target"])
    torch.manual_seed(SEED)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    weights = [p for p in model.parameters() if p.ndim == 2]
    biases = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
    update = 0
    for epoch in range(EPOCHS):
        for batch in permutation(len(x), SEED, epoch).split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor(update)
            torch.nn.functional.mse_loss(model(x[batch]), target[batch]).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_([*weights, *biases], clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            update += 1
    return model.state_dict()


def assert_same(outcome, final_weights, expected):
    found = load(final_weights(outcome))
    assert len(found) == len(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[f"layers.{name}"], tensor), name


def test_a_run_ends_with_the_weights_of_the_bare_loop(finish, final_weights):
    outcome = finish({"seed": SEED, "model.optimizer.weight_decay": 0.1})
    assert_same(outcome, final_weights, by_hand())


def test_clipping_and_a_schedule_change_nothing_about_that(finish, final_weights):
    schedule = {"kind": "linear", "start": 1.0, "end": 0.5}
    table = {"kind": "AdamW", "lr": 0.01, "weight_decay": 0.1, "clip_grad_norm": 0.5, "schedule": schedule}
    outcome = finish({"seed": SEED, "model.optimizer": table})
    assert_same(outcome, final_weights, by_hand(clip=0.5, factor=lambda update: 1.0 - 0.5 * update / 12))


def test_another_seed_is_another_run(finish, final_weights):
    assert final_weights(finish({"seed": 1})) != final_weights(finish({"seed": 2}))
