"""Noether switches between the weights that are trained and those that are evaluated."""

from pathlib import Path
from typing import Any

import pytest
import torch
from schedulefree import AdamWScheduleFree

import noether
from noether.testing import make_data, make_model, make_trainer

OPTIMIZER = {"kind": "schedulefree-adamw", "lr": 0.05}
EVALUATION = {"kind": "offline-loss", "dataset_key": "test"}


def test_a_run_equals_a_loop_written_by_hand(tmp_path: Path):
    data = make_data()
    trainer = make_trainer(tmp_path, data=data, effective_batch_size=24, max_updates=10)
    trainer.train(model := make_model(optimizer=OPTIMIZER))
    trainer.log_writer.close()
    by_hand = make_model()
    optimizer = AdamWScheduleFree(by_hand.parameters(), lr=OPTIMIZER["lr"])
    samples = [data.train[index] for index in range(24)]
    x, target = (torch.stack([sample[name] for sample in samples]) for name in ("x", "y_target"))
    optimizer.train()
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(by_hand(x=x)["y"], target).backward()
        optimizer.step()
    trained = [parameter.clone() for parameter in by_hand.parameters()]
    optimizer.eval()
    for parameter, expected, raw in zip(model.parameters(), by_hand.parameters(), trained, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(parameter, raw, rtol=1e-4, atol=1e-6)


def test_evaluations_leave_training_as_it_is(tmp_path: Path, tiny_run: Any):
    with_them = tiny_run(**trained([{**EVALUATION, "every_n_updates": 1}]))
    without = tiny_run(**trained([]))
    assert weights(with_them) == weights(without)


def test_a_checkpoint_has_the_weights_that_were_evaluated(tiny_run: Any):
    outcome = tiny_run(**trained([{**EVALUATION, "every_n_updates": 4}, {"kind": "checkpoint", "every_n_updates": 4}]))
    again = noether.load_run(outcome.run_dir)
    test = make_data().get_dataset("test")
    x, target = (torch.stack([test[index][name] for index in range(len(test))]) for name in ("x", "y_target"))
    with torch.no_grad():
        loss = torch.nn.functional.mse_loss(again.model(x=x)["y"], target)
    assert float(loss) == pytest.approx(outcome.metrics["loss/test/total"], rel=1e-5)
    predicted = again.predict({"x": x.tolist()})["y"]
    torch.testing.assert_close(torch.as_tensor(predicted), again.model(x=x)["y"].detach())


def trained(callbacks: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model": {"optimizer": {**OPTIMIZER}}, "trainer": {"callbacks": callbacks}}


def weights(outcome: Any) -> bytes:
    (folder,) = sorted((outcome.run_dir / "checkpoints").iterdir())[-1:]
    return (folder / "model.safetensors").read_bytes()
