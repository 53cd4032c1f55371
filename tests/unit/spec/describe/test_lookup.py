"""Meaning of a key without a spec."""

import pytest

from noether.errors import SpecError
from noether.spec.lookup import meanings
from noether.spec.read.overrides import parse_path

pytestmark = pytest.mark.usefixtures("registry")


def owners_and_names(key: str) -> list[tuple[str, str]]:
    return [(meaning.owner, meaning.name) for meaning in meanings(parse_path(key))]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("seed", [("", "seed")]),
        ("loader.num_workers", [("", "num_workers")]),
        ("trainer.max_epochs", [("", "max_epochs")]),
        ("model.dropout", [("net", "dropout")]),
        ("model.normalization.momentum", [("net", "momentum")]),
        ("model.optimizer.momentum", [("SGD", "momentum")]),
        ("trainer.callbacks[stop].stop_at", [("stop", "stop_at")]),
        ("trainer.callbacks[anything].every_n_epochs", [("", "every_n_epochs")]),
        ("trainer.callbacks.0.every_n_epochs", [("", "every_n_epochs")]),
        ("trainer.callbacks[average].eval_callbacks[pass].dataset_key", [("pass", "dataset_key")]),
        ("datasets.train.split", [("points", "split")]),
        ('expect."loss/test/total".max', [("", "max")]),
    ],
)
def test_a_key_means_the_fields_that_it_may_be(key, expected):
    assert owners_and_names(key) == expected


def test_an_option_that_several_kinds_have_means_each_of_them():
    assert owners_and_names("model.optimizer.lr") == [("AdamW", "lr"), ("SGD", "lr")]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("traner.max_epochs", """a spec has no key "traner". Did you mean 'trainer'?"""),
        ("trainer.max_epoch", """trainer has no key "max_epoch". Did you mean 'max_epochs'?"""),
        ("trainer.callbacks[note].every_n_epoch", "Did you mean 'every_n_epochs'?"),
        ("model.optimizer.momentun", "Did you mean 'momentum'?"),
        ("seed.x", 'seed has no key "x".'),
        ("seed[x]", "seed is not a list of components"),
    ],
)
def test_an_unknown_key_is_reported_with_the_nearest_one(key, message):
    with pytest.raises(SpecError) as caught:
        owners_and_names(key)
    assert message in caught.value.message
