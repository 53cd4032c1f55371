"""Explanation of a key: its meaning, value and origin."""

import pytest

from noether.errors import SpecError
from noether.spec.explain import UNSET, explained


@pytest.fixture
def explain(load, tmp_path):
    (tmp_path / "base.toml").write_text(
        """[datasets]
train = { kind = "points" }
[model]
kind = "net"
optimizer = { kind = "AdamW", lr = 0.5 }
[trainer]
kind = "goal"
max_epochs = 100
effective_batch_size = 4
"""
    )
    spec = tmp_path / "a.toml"
    spec.write_text(
        'extends = ["base.toml"]\n[trainer]\nmax_epochs = 500\n'
        '[[trainer.callbacks]]\nid = "ema"\nkind = "note"\nevery_n_epochs = 3\n'
    )

    def explain_key(key: str, *overrides: str):
        return explained(key, load(spec, overrides))

    return explain_key


def test_the_chain_goes_from_the_override_to_the_base(explain, tmp_path):
    explanation = explain("trainer.max_epochs", "seed=3", "trainer.max_epochs=5")
    assert explanation.value == 5
    assert [(said.value, said.where) for said in explanation.said] == [
        (5, "command line, argument 2"),
        (500, f"{tmp_path}/a.toml:3:14"),
        (100, f"{tmp_path}/base.toml:8:14"),
    ]
    assert explanation.meaning.owner == "goal"


def test_a_default_has_no_origin(explain):
    explanation = explain("model.dropout")
    assert (explanation.value, explanation.said) == (0.0, ())


def test_keys_without_a_value_are_unset(explain):
    assert explain("trainer.max_updates").value is UNSET


def test_a_callback_is_found_by_its_id(explain, tmp_path):
    explanation = explain("trainer.callbacks[ema].every_n_epochs")
    assert explanation.value == 3
    assert explanation.said[0].where == f"{tmp_path}/a.toml:7:18"


def test_an_entry_of_a_list_is_explained_by_the_list(explain):
    explanation = explain("model.optimizer.betas.0")
    assert (explanation.value, explanation.holder) == (0.9, "model.optimizer.betas")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("trainer.max_epoch", "Did you mean 'max_epochs'?"),
        ("trainer.callbacks[emma].every_n_epochs", "Did you mean 'ema'?"),
        ("datasets.trian", "Did you mean 'train'?"),
        ("trainer.callbacks.4.kind", "no key"),
        ("model[x]", "model is not a list"),
    ],
)
def test_an_unknown_key_is_reported_with_the_nearest_one(explain, key, message):
    with pytest.raises(SpecError) as caught:
        explain(key)
    assert message in caught.value.message
