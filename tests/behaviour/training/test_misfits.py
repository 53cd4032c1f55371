"""Parts that do not fit together are refused in the words of the spec, before training."""

import pytest

from noether.errors import SpecError, TrainingError

MINE = {"in_features": 3, "out_features": 2, "optimizer": {"kind": "SGD"}}


def test_forward_properties_that_the_model_does_not_take_are_refused(run, workplace):
    with pytest.raises(SpecError) as error:
        run({"model": {"kind": "torch.nn.Linear", **MINE}, "trainer.forward_properties": ["x", "y_target"]})
    assert "found ['x', 'y_target']" in error.value.message
    assert "(input)" in error.value.message
    assert not (workplace / "runs").exists()


def test_an_output_of_equal_size_and_another_shape_is_refused(run, lab):
    outcome = run({"model": {"kind": "lab.models.Sideways", **MINE}})
    assert isinstance(outcome.error, TrainingError)
    assert "'y': found (8, 1, 2), expected (8, 2)" in outcome.error.message


@pytest.mark.parametrize(
    ("loss_fn", "found"),
    [
        ({"kind": "mse", "reduction": "none"}, "of (8, 2)"),
        ("lab.losses.a_float", "found float"),
    ],
    ids=["not reduced", "no tensor"],
)
def test_a_loss_that_cannot_be_differentiated_is_named(run, lab, loss_fn, found):
    outcome = run({"trainer.loss_fn": loss_fn})
    assert isinstance(outcome.error, TrainingError)
    assert outcome.error.hint
    assert found in outcome.error.message


def test_a_model_that_returns_a_tuple_is_refused_with_the_expected_form(run, lab):
    outcome = run({"model": {"kind": "lab.models.Pair", **MINE}})
    assert "found tuple" in outcome.error.message
    assert "{'y': …}" in outcome.error.hint


def test_a_model_that_cannot_be_built_names_the_line(run, lab, workplace):
    with pytest.raises(SpecError) as caught:
        run({"model": {"kind": "lab.models.Picky", "act": "tanhh", "optimizer": {"kind": "SGD"}}})
    for fact in ("'lab.models.Picky'", "project code", "KeyError: 'tanhh'", "models.py:"):
        assert fact in caught.value.message
    assert not (workplace / "runs").exists()
