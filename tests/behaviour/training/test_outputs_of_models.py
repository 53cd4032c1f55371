"""The output of a model may be a tensor, a mapping, a dataclass, a tuple or an object."""

import pytest

from noether.errors import TrainingError

OFFLINE = [
    {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"},
    {"kind": "offline-metrics", "every_n_epochs": 1, "dataset_key": "test", "metrics": {"y": ["rmse"]}},
]


@pytest.fixture
def trained(finish, lab):
    """Trains a model that answers in this form, and returns its final metrics."""

    def train(form, outputs=None):
        model = {"kind": "lab.answers.Answers", "form": form, "optimizer": {"kind": "SGD"}}
        metrics = finish({"model": model, "trainer.outputs": outputs, "trainer.callbacks": OFFLINE}).metrics
        return {key: value for key, value in metrics.items() if key.startswith(("loss/", "rmse/"))}

    return train


@pytest.mark.parametrize(
    ("form", "outputs"),
    [
        ("tensor", None),
        ("mapping", None),
        ("namedtuple", None),
        ("model-output", {"y": "logits"}),
        ("model-output", {"y": 0}),
        ("model-output", {"y": "hidden.1"}),
        ("dataclass", {"y": "logits"}),
        ("dataclass", {"y": "hidden.1"}),
        ("tuple", {"y": 1}),
        ("tuple", {"y": "-1"}),
        ("list", {"y": 0}),
        ("nested", {"y": "1.deep.y"}),
        ("object", {"y": "logits"}),
    ],
)
def test_it_trains_and_is_evaluated_as_with_a_dict(trained, form, outputs):
    assert trained(form, outputs) == trained("dict")


@pytest.mark.parametrize(
    ("form", "outputs", "fact"),
    [
        ("tuple", None, "tuple of NoneType, a tensor (8, 2)"),
        ("object", None, "SimpleNamespace"),
        ("dataclass", {"y": "logit"}, "Output with logits, hidden, loss"),
        ("tuple", {"y": 2}, "expected 2"),
        ("tensor", {"y": "nothing"}, "a tensor (8, 2)"),
    ],
)
def test_a_form_without_the_field_is_described_with_the_way_out(run, lab, form, outputs, fact):
    model = {"kind": "lab.answers.Answers", "form": form, "optimizer": {"kind": "SGD"}}
    outcome = run({"model": model, "trainer.outputs": outputs})
    assert isinstance(outcome.error, TrainingError)
    assert fact in outcome.error.message
    assert "outputs = { y" in outcome.error.hint
