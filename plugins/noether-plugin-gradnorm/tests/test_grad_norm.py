"""The norm of the gradients, and the line at the end of a run."""

from pathlib import Path

import pytest
import torch
from noether_plugin_gradnorm.callback import GradNormCallback

import noether
from noether.errors import SpecError
from noether.testing import make_callback, make_counter, make_trainer, tiny_spec


@pytest.fixture
def trainer(tmp_path: Path):
    return make_trainer(tmp_path)


def grad_norm(trainer, **options) -> GradNormCallback:
    return make_callback({"kind": "grad-norm", "every_n_updates": 1, **options}, trainer)


def model_with_gradients(*values: float) -> torch.nn.Module:
    model = torch.nn.Linear(len(values), 1, bias=False)
    model.weight.grad = torch.tensor([values])
    return model


@pytest.mark.parametrize(("norm_type", "expected"), [(2.0, 5.0), (1.0, 7.0), (float("inf"), 4.0)])
def test_norm_of_all_gradients_is_logged(trainer, norm_type: float, expected: float):
    callback = grad_norm(trainer, norm_type=norm_type)
    callback.before_optimizer_step(update_counter=make_counter(), model=model_with_gradients(3.0, -4.0))
    callback.periodic_callback(interval_type="update", update_counter=make_counter(update=1))
    assert trainer.log_writer.current("optim/grad_norm") == pytest.approx(expected)


def test_nothing_is_logged_before_the_first_update(trainer):
    grad_norm(trainer).periodic_callback(interval_type="eval", update_counter=make_counter())
    assert trainer.log_writer.current_metrics() == {}


def test_order_of_the_norm_must_be_positive():
    callback = {"kind": "grad-norm", "every_n_updates": 1, "norm_type": 0.0}
    with pytest.raises(SpecError, match="norm_type"):
        noether.load_spec(tiny_spec(trainer={"callbacks": [callback]}))


def test_hello_says_how_the_run_ended(tiny_run, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"):
        tiny_run(plugins={"use": ["hello"]})
    assert "hello from noether-plugin-gradnorm: the run ended as FINISHED" in caplog.messages
