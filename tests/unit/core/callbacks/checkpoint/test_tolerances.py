"""Checkpoints for several tolerances of early stopping, found in one run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from noether.checkpoint.state_tree import join_state, split_state
from noether.core.callbacks.early_stoppers import Offered, Tolerances

few = st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf])  # so that there are ties
sequences = st.lists(few | st.floats(width=32), max_size=20)
patiences = st.lists(st.integers(0, 6), max_size=4)


def follow(values: Sequence[float], tolerances: Sequence[int] = (), *, higher_is_better: bool = False) -> Tolerances:
    followed = Tolerances(tolerances, higher_is_better=higher_is_better)
    for value in values:
        followed.offer(value)
    return followed


def best_of(values: Sequence[float], higher_is_better: bool) -> int | None:
    """Return the place of the best finite value, the first of equal ones."""
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    sign = -1 if higher_is_better else 1
    return min(finite, key=lambda index: sign * values[index], default=None)


def stopped_with(values: Sequence[float], patience: int, higher_is_better: bool) -> int | None:
    """Return the number of values after which a run with this patience stops; None if it does not."""
    for seen in range(1, len(values) + 1):
        best = best_of(values[:seen], higher_is_better)
        without = seen if best is None else seen - 1 - best
        if without > patience:
            return seen
    return None


@given(sequences, patiences, st.booleans(), st.integers(0, 20))
def test_each_tolerance_keeps_what_a_run_that_stops_there_would_have_kept_also_after_a_resume(
    values: list[float], tolerances: list[int], higher_is_better: bool, resume_before: int
) -> None:
    followed = Tolerances(tolerances, higher_is_better=higher_is_better)
    exceeded_at: dict[int, int] = {}
    for index, value in enumerate(values):
        if index == resume_before:
            state = json.loads(json.dumps(split_state(followed.state_dict(), "a test")[0], allow_nan=False))
            followed = Tolerances(tolerances, higher_is_better=higher_is_better)
            followed.load_state_dict(join_state(state, {}))
        offered = followed.offer(value)
        assert offered.is_best == (best_of(values[: index + 1], higher_is_better) == index)
        assert not exceeded_at.keys() & set(offered.exceeded), "once is enough"
        exceeded_at |= dict.fromkeys(offered.exceeded, index + 1)
    expected = {n: stopped_with(values, n, higher_is_better) for n in tolerances}
    assert exceeded_at == {n: end for n, end in expected.items() if end is not None}
    for n, end in expected.items():
        best = best_of(values[:end], higher_is_better)
        assert followed.best_within(n) == (None if best is None else values[best])


def test_intervals_within_the_tolerance_do_not_stop() -> None:
    followed = follow([1.0, 2.0, 2.0], [2])
    assert followed.kept == {}
    assert followed.offer(2.0) == Offered(is_best=False, exceeded=(2,))


def test_a_later_improvement_does_not_move_what_was_kept() -> None:
    followed = follow([1.0, 2.0, 2.0, 0.5], [1, 2])
    assert (followed.best_within(1), followed.best_within(2)) == (1.0, 0.5)
    assert followed.best.without_improvement == 0


def test_stopping_before_anything_was_finite_keeps_nothing() -> None:
    assert follow([math.nan, math.inf, 1.0], [1]).best_within(1) is None


def test_a_tolerance_that_is_no_longer_followed_is_forgotten() -> None:
    state = follow([1.0, 2.0, 2.0], [0, 1]).state_dict()
    resumed = Tolerances([1, 3], higher_is_better=False)
    resumed.load_state_dict(state)
    assert resumed.kept == {1: 1.0}
    assert (resumed.offer(2.0).exceeded, resumed.offer(2.0).exceeded) == ((), (3,))
