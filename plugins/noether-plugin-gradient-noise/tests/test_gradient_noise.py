"""The estimates of the noise, on gradients whose noise is known."""

import pytest
import torch

from noether.data import DataContainer, InMemoryDataset
from noether.errors import SpecError, TrainingError
from noether.testing import make_callback, make_counter, make_model, make_trainer

CONFIG = {"kind": "gradient-noise", "every_n_updates": 1, "factor": 0.999}


def test_noise_scale_of_gradients_with_known_noise(tmp_path):
    trainer = make_trainer(tmp_path, effective_batch_size=8, max_batch_size=2)
    callback = make_callback(CONFIG, trainer, model := make_model())
    generator = torch.Generator().manual_seed(0)
    for _ in range(1500):
        update(callback, model, mean=0.5, std=2.0, generator=generator)
    callback.periodic_callback()
    assert trainer.log_writer.current("gradient/noise_scale") == pytest.approx((2.0 / 0.5) ** 2, rel=0.15)


def test_a_non_finite_update_leaves_the_averages_alone(tmp_path):
    callback = make_callback(CONFIG, make_trainer(tmp_path, max_batch_size=2), model := make_model())
    update(callback, model, mean=1.0, std=1.0)
    before = callback.averages
    update(callback, model, mean=float("inf"), std=1.0)
    assert torch.equal(callback.averages, before)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_equal_samples_have_no_noise(tmp_path, precision):
    data = DataContainer({"train": InMemoryDataset({"x": torch.ones(8, 3), "y_target": torch.ones(8, 2)})})
    trainer = make_trainer(tmp_path, data=data, max_batch_size=1, precision=precision, callbacks=[CONFIG])
    trainer.train(make_model())
    trainer.log_writer.close()
    gradient, noise = trainer.callbacks[0].averages
    assert gradient > 1e-4
    assert abs(noise) < 1e-2 * gradient


def test_it_says_before_training_that_it_needs_accumulation(tmp_path):
    with pytest.raises(SpecError, match="max_batch_size"):
        make_callback(CONFIG, make_trainer(tmp_path))


def test_a_loss_that_weights_accumulation_steps_is_refused(tmp_path):
    callback = make_callback(CONFIG, make_trainer(tmp_path, max_batch_size=2))
    callback.trainer.one_update.loss_weights = {"total": 3.0}
    with pytest.raises(TrainingError, match="mean over samples"):
        callback.track_after_accumulation_step(accumulation_steps=2, accumulation_step=0)


def update(callback, model, *, mean, std, generator=None):
    """Call its hooks for an update of four accumulation steps, whose gradients have noise."""
    samples, steps = callback.trainer.batch_size, callback.trainer.accumulation_steps
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for step in range(steps):
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * std / samples**0.5
            parameter.grad += (mean + noise) / steps
        callback.track_after_accumulation_step(accumulation_steps=steps, accumulation_step=step)
    callback.before_optimizer_step(update_counter=make_counter(effective_batch_size=samples * steps), model=model)
