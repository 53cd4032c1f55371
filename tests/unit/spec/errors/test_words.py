import tomllib

from hypothesis import given
from hypothesis import strategies as st

from noether.spec.errors.words import toml_literal

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_any_value_is_what_toml_reads_back(value):
    text = toml_literal(value)
    assert "\n" not in text
    assert tomllib.loads(f"value = {text}") == {"value": value}


def test_values_are_written_as_a_person_would():
    assert toml_literal({"kind": "mlp", "hidden": [64, 64], "a b": True}) == (
        '{ kind = "mlp", hidden = [64, 64], "a b" = true }'
    )
    assert toml_literal({}) == "{}"
    assert toml_literal(float("-inf")) == "-inf"
