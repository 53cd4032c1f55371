"""Comparison of the values of a metric."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from noether.core.callbacks.early_stoppers import BestValue

few = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, math.nan, math.inf, -math.inf])  # so that there are ties
sequences = st.lists(few | st.floats(), max_size=12)


@given(sequences, st.booleans())
def test_a_value_wins_exactly_if_it_is_finite_and_strictly_better_than_all_finite_ones_before(
    values: list[float], higher_is_better: bool
) -> None:
    best = BestValue(higher_is_better=higher_is_better)
    for index, value in enumerate(values):
        before = [earlier for earlier in values[:index] if math.isfinite(earlier)]
        better = all(value > earlier if higher_is_better else value < earlier for earlier in before)
        assert best.offer(value) == (math.isfinite(value) and better)


@given(sequences, st.booleans())
def test_the_best_value_is_the_extreme_of_the_finite_ones(values: list[float], higher_is_better: bool) -> None:
    best = BestValue(higher_is_better=higher_is_better)
    for value in values:
        best.offer(value)
    finite = [value for value in values if math.isfinite(value)]
    assert best.value == ((max(finite) if higher_is_better else min(finite)) if finite else None)
