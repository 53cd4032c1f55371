"""The norm of the gradients, and the registration of the callback."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from noether_plugin_gradnorm.callback import GradNormCallback, GradNormConfig
from pydantic import ValidationError

from noether.kernel.dispatch import compile_dispatch
from noether.kernel.participant import Participant
from noether.kernel.registry import Registry


class Written(dict[str, Any]):
    """Stores metrics in place of a log writer."""

    def add_scalar(self, key: str, value: Any, logger: Any = None, format_str: str | None = None) -> None:
        self[key] = value


@pytest.fixture
def written() -> Written:
    return Written()


def grad_norm(written: Written, **config: Any) -> GradNormCallback:
    unused = (
        "trainer",
        "model",
        "data_container",
        "tracker",
        "checkpoint_writer",
        "metric_property_provider",
    )
    return GradNormCallback(GradNormConfig(every_n_updates=1, **config), log_writer=written, **dict.fromkeys(unused))


def model_with_gradients(*values: float) -> torch.nn.Module:
    model = torch.nn.Linear(len(values), 1, bias=False)
    model.weight.grad = torch.tensor([values])
    return model


@pytest.mark.parametrize(("norm_type", "expected"), [(2.0, 5.0), (1.0, 7.0), (float("inf"), 4.0)])
def test_norm_of_all_gradients_is_logged_as_a_tensor(written: Written, norm_type: float, expected: float):
    callback = grad_norm(written, norm_type=norm_type)
    callback.before_optimizer_step(update_counter=None, model=model_with_gradients(3.0, -4.0))
    callback.periodic_callback(interval_type="update", update_counter=None)
    assert isinstance(written["optim/grad_norm"], torch.Tensor)
    assert written["optim/grad_norm"].item() == pytest.approx(expected)


def test_nothing_is_logged_before_the_first_update(written: Written):
    grad_norm(written).periodic_callback(interval_type="eval", update_counter=None)
    assert written == {}


def test_callback_implements_the_hook_before_the_optimizer_step(written: Written):
    dispatch = compile_dispatch([Participant("grad-norm", "grad-norm", grad_norm(written))])
    assert dispatch.order("before_optimizer_step") == ["grad-norm"]
    assert dispatch.after_update_always is None


def test_order_of_the_norm_must_be_positive():
    with pytest.raises(ValidationError) as caught:
        GradNormConfig(every_n_updates=1, norm_type=0.0)
    assert caught.value.errors()[0]["loc"] == ("norm_type",)


def test_plugin_is_found_by_short_and_by_qualified_name():
    registry = Registry.installed()
    assert registry.find("callback", "grad-norm") == registry.find("callback", "gradnorm/grad-norm")
    assert registry.find("plugin", "hello").distribution == "noether-plugin-gradnorm"


def test_hello_says_how_the_run_ended(caplog: pytest.LogCaptureFixture):
    from noether_plugin_gradnorm import hello

    finish = compile_dispatch([Participant("hello", "hello", hello, is_plugin=True)]).run_finished
    assert finish is not None
    with caplog.at_level("INFO"):
        finish(run=None, outcome=SimpleNamespace(status="done"))
    assert caplog.messages == ["hello from noether-plugin-gradnorm: the run ended as done"]
