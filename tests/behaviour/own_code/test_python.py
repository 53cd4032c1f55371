"""Own code in Python: objects are used as they are, the author's package is trusted, the text of a spec is not."""

import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
import tomli_w
import torch
from pydantic import ValidationError
from torch import nn

import noether
from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback
from noether.errors import SpecError
from noether.spec.errors.problem import InvalidSpecError
from noether.testing import make_trainer
from noether.training.trainers import BaseTrainerConfig

CALLED = []
BASE = {"max_epochs": 1, "effective_batch_size": 8, "forward_properties": ["x"], "target_properties": ["y_target"]}


class Look(PeriodicCallback):
    """Notes its calls."""

    def periodic_callback(self, **kwargs):
        CALLED.append(type(self).__name__)


class Net(nn.Module):
    """A line."""

    def __init__(self, width: int = 3):
        super().__init__()
        CALLED.append(width)
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        return self.line(x)


def distance(input, target, scale: float = 1.0):
    """Return a scaled distance."""
    CALLED.append(scale)
    return scale * (input - target).abs().mean()


@pytest.fixture(autouse=True)
def nothing_called():
    CALLED.clear()


@pytest.mark.parametrize(
    "callback",
    [
        {"kind": f"{__name__}.Look", "every_n_epochs": 1},
        {"kind": Look, "every_n_epochs": 1},
        CallBackBaseConfig(kind=f"{__name__}.Look", every_n_epochs=1),
    ],
    ids=["text", "class", "config"],
)
def test_a_trainer_config_takes_the_callbacks_of_its_author(callback):
    (config,) = BaseTrainerConfig(callbacks=[callback], **BASE).callbacks
    assert component_of(config).target is Look


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        (f"{__name__}.distance", 1.0),
        (distance, 1.0),
        ({"kind": distance, "scale": 2.0}, 2.0),
        (partial(distance, scale=3.0), 3.0),
    ],
    ids=["text", "function", "table", "partial"],
)
def test_a_loss_may_be_a_function_or_its_name(tmp_path, loss, scale):
    trainer = make_trainer(tmp_path, loss_fn=loss)
    trainer.loss_fn(input=torch.zeros(1), target=torch.zeros(1))
    assert [scale] == CALLED


def test_a_lambda_may_be_a_loss(tmp_path):
    trainer = make_trainer(tmp_path, loss_fn=lambda input, target: (input - target).sum() + 5)
    assert trainer.loss_fn(input=torch.zeros(1), target=torch.zeros(1)) == 5


def test_a_function_of_other_arguments_is_no_loss(tmp_path):
    with pytest.raises(ValidationError) as caught:
        make_trainer(tmp_path, loss_fn=lambda prediction, truth: 0)
    assert "input" in str(caught.value)


@pytest.mark.parametrize("kind", ["os.system", "pluggy.PluginManager", "torch.hub.load"])
def test_what_is_imported_is_not_trusted_for_that(kind):
    assert kind.partition(".")[0] in sys.modules
    with pytest.raises(ValidationError):
        BaseTrainerConfig(callbacks=[{"kind": kind, "every_n_epochs": 1}], **BASE)


def test_classes_and_functions_stand_for_kinds_in_a_spec_from_python(finish):
    changes = {
        "model": {"kind": Net, "width": 5, "optimizer": torch.optim.SGD},
        "trainer.loss_fn": distance,
        "trainer.callbacks": [{"kind": Look, "every_n_epochs": 1}],
        "trainer.max_epochs": 1,
    }
    outcome = finish(changes, run_id="first")
    assert CALLED[0] == 5
    assert CALLED.count("Look") == 1
    text = (outcome.run_dir / "spec.resolved.toml").read_text()
    assert f'kind = "{__name__}.Net"' in text
    assert 'kind = "SGD"' in text


def test_a_partial_or_lambda_may_build_a_model(finish):
    for build in (partial(Net, 7), lambda width=7: Net(width)):
        CALLED.clear()
        finish({"model": {"kind": build, "optimizer": "SGD"}, "trainer.max_epochs": None, "trainer.max_updates": 1})
        assert CALLED == [7]


def test_a_run_of_such_objects_is_continued_by_the_same_code(finish):
    changes = {
        "model": {"kind": Net, "optimizer": "SGD"},
        "trainer.loss_fn": lambda input, target: distance(input, target),
    }
    finish({**changes, "trainer.max_epochs": 1}, run_id="first")
    outcome = finish({**changes, "trainer.max_epochs": 2}, run_id="first", resume="auto")
    assert outcome.metrics["loss/online/total/U1"] > 0


def test_an_object_without_a_name_is_refused_where_only_text_is_left(finish):
    finish({"trainer.loss_fn": lambda input, target: distance(input, target), "trainer.max_epochs": 1}, run_id="first")
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_run("first")
    (problem,) = caught.value.problems
    assert "an object that Python code passed" in problem.message


def test_two_lambdas_are_two_losses(tiny_spec):
    table = {"a": lambda input, target: 1, "b": lambda input, target: 2}
    kinds = []
    for loss in table.values():
        loaded = noether.load_spec(tiny_spec, set={"trainer.loss_fn": loss})
        kinds.append(component_of(loaded.spec.trainer.loss_fn).target)
    assert kinds == list(table.values())


def test_an_object_is_no_value_of_an_option(tiny_spec):
    with pytest.raises(SpecError) as caught:
        noether.load_spec({**tiny_spec, "model": {"kind": "mlp", "activation": torch.relu}})
    assert caught.value.code == "unsupported-value"


@pytest.fixture
def text(tiny_spec, workplace) -> Path:
    """A file that names code of this package, which is not part of its project."""
    file = workplace / "text.toml"
    file.write_text(tomli_w.dumps(tiny_spec | {"model": {"kind": f"{__name__}.Net", "optimizer": {"kind": "SGD"}}}))
    return file


def test_the_text_of_a_spec_gains_nothing_from_the_code_that_runs_it(text):
    for source in (text, {"extends": [str(text)]}, {"extends": [str(text)], "trainer": {"loss_fn": distance}}):
        with pytest.raises(InvalidSpecError) as caught:
            noether.load_spec(source)
        assert caught.value.problems[0].code == "not-trusted"
        assert 'trust=["tests"]' in (caught.value.problems[0].hint or "")
    assert noether.load_spec(text, trust=["tests"]).spec.model.width == 3
    assert noether.load_spec(text, set={"model.kind": Net}).spec.model.width == 3


def test_a_config_that_python_made_gives_nothing_to_text_afterwards(text):
    BaseTrainerConfig(callbacks=[{"kind": f"{__name__}.Look", "every_n_epochs": 1}], **BASE)
    with pytest.raises(InvalidSpecError):
        noether.load_spec(text)


SCRIPT = """
import noether
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 3):
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        return self.line(x)


def loss(input, target):
    return (input - target).abs().mean()


if __name__ == "__main__":
    trainer = {**TINY["trainer"], "loss_fn": "__main__.loss"}
    own = {"model": {"kind": "__main__.Net", "optimizer": "SGD"}, "trainer": trainer}
    outcome = noether.run({**TINY, **own}, run_id="first", quiet=True)
    model = noether.load_run("first", trust=["__main__"]).model
"""


def test_a_script_names_its_own_code_as_main(tiny_spec, workplace):
    (workplace / "script.py").write_text(SCRIPT)
    found = runpy.run_path("script.py", {"TINY": tiny_spec}, run_name="__main__")
    assert found["outcome"].status == "FINISHED"
    assert isinstance(found["model"].module, found["Net"])
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_run("first")
    assert {problem.code for problem in caught.value.problems} == {"not-trusted"}
    assert 'trust=["__main__"]' in (caught.value.problems[0].hint or "")
