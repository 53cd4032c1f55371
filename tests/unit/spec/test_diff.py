import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.spec.overlay import ABSENT, differences, differing_settings, value_at
from noether.spec.read.overrides import parse_path

SPEC = {
    "name": "a",
    "seed": 0,
    "model": {"kind": "mlp", "hidden": [8, 8]},
    "trainer": {
        "max_epochs": 3,
        "callbacks": [
            {"id": "val", "kind": "offline-loss", "every_n_epochs": 1},
            {"id": "ckpt", "kind": "checkpoint", "every_n_epochs": 2},
        ],
    },
}


@pytest.fixture
def other() -> dict:
    return copy.deepcopy(SPEC)


def found(other: dict) -> list[tuple]:
    return [(difference.key, difference.left, difference.right) for difference in differences(SPEC, other)]


def test_equal_specs_differ_in_nothing(other):
    assert found(other) == []


def test_each_key_that_differs_is_reported_in_the_order_of_the_spec(other):
    other["trainer"]["max_epochs"] = 4
    other["name"] = "b"
    assert found(other) == [("name", "a", "b"), ("trainer.max_epochs", 3, 4)]


def test_a_key_that_only_one_has_is_absent_in_the_other(other):
    del other["seed"]
    other["threads"] = 2
    assert found(other) == [("seed", 0, ABSENT), ("threads", ABSENT, 2)]


def test_a_list_of_numbers_differs_as_a_whole(other):
    other["model"]["hidden"] = [8, 9]
    assert found(other) == [("model.hidden", [8, 8], [8, 9])]


def test_callbacks_are_compared_by_id(other):
    other["trainer"]["callbacks"].insert(0, {"id": "new", "kind": "lr"})
    other["trainer"]["callbacks"][2]["every_n_epochs"] = 5
    assert found(other) == [
        ("trainer.callbacks[ckpt].every_n_epochs", 2, 5),
        ("trainer.callbacks[new]", ABSENT, {"id": "new", "kind": "lr"}),
    ]


def test_another_order_of_callbacks_is_a_difference(other):
    other["trainer"]["callbacks"].reverse()
    assert found(other) == [("trainer.callbacks (order)", ["val", "ckpt"], ["ckpt", "val"])]


def test_the_origins_of_a_spec_are_not_a_difference(other):
    other |= {"extends": ["base.toml"], "resolved": {"noether": "0.1.0"}}
    assert found(other) == []


@pytest.mark.parametrize(("left", "right", "same"), [(1, 1.0, True), (True, 1, False), ([1], [True], False)])
def test_numbers_are_compared_by_value_and_flags_are_no_numbers(left, right, same):
    assert (differences({"x": left}, {"x": right}) == []) is same


def test_nan_is_itself():
    assert differences({"x": float("nan")}, {"x": float("nan")}) == []


def test_a_key_that_needs_quotes_has_them():
    assert differences({"expect": {"loss/a": 1}}, {"expect": {"loss/a": 2}})[0].key == 'expect."loss/a"'


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_any_table_equals_its_copy(table):
    assert differences(table, copy.deepcopy(table)) == []


def test_settings_that_differ_among_several_specs_have_a_value_for_each(other):
    third = copy.deepcopy(SPEC)
    other["model"]["hidden"] = [16]
    third["trainer"]["max_epochs"] = 3.0
    third["model"]["act"] = "relu"
    assert differing_settings([SPEC, other, third]) == {
        "model.hidden": [[8, 8], [16], [8, 8]],
        "model.act": [ABSENT, ABSENT, "relu"],
    }


def test_a_component_that_one_spec_lacks_is_one_setting_and_differs_further_only_where_others_do(other):
    third = copy.deepcopy(SPEC)
    del third["trainer"]["callbacks"][1]
    third["trainer"]["callbacks"][0]["every_n_epochs"] = 5
    assert differing_settings([SPEC, other, third]) == {
        "trainer.callbacks[val].every_n_epochs": [1, 1, 5],
        "trainer.callbacks[ckpt]": ["checkpoint", "checkpoint", ABSENT],
    }
    other["trainer"]["callbacks"][1]["every_n_epochs"] = 9
    found = differing_settings([SPEC, other, third])
    assert found["trainer.callbacks[ckpt].every_n_epochs"] == [2, 9, ABSENT]


def test_another_order_differs_and_an_empty_list_beside_items_does_not_differ_twice(other):
    other["trainer"]["callbacks"].reverse()
    assert differing_settings([SPEC, other]) == {"trainer.callbacks (order)": [["val", "ckpt"], ["ckpt", "val"]]}
    other["trainer"]["callbacks"] = []
    assert differing_settings([SPEC, other]) == {
        "trainer.callbacks[val]": ["offline-loss", ABSENT],
        "trainer.callbacks[ckpt]": ["checkpoint", ABSENT],
    }


@given(st.lists(st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2), min_size=2, max_size=2))
def test_two_specs_differ_in_settings_exactly_if_they_differ(specs):
    """Compare with `differences`, which looks at two specs at a time."""
    left, right = specs
    assert bool(differing_settings([left, right])) is bool(differences(left, right))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.hidden", [8, 8]),
        ("model.hidden.1", 8),
        ("trainer.callbacks[ckpt].every_n_epochs", 2),
        ("trainer.callbacks.0.kind", "offline-loss"),
        ("trainer.callbacks[nothing].kind", ABSENT),
        ("trainer.callbacks.7", ABSENT),
        ("trainer.callbacks.kind", ABSENT),
        ("model.kind.more", ABSENT),
        ("model[kind]", ABSENT),
        ("nothing", ABSENT),
    ],
)
def test_a_value_is_found_by_its_path(path, value):
    found = value_at(SPEC, parse_path(path))
    assert found is value if value is ABSENT else found == value
