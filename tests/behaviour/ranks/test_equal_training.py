"""Several ranks train as one process does: the same samples, losses, gradients, statistics and metrics."""

import numpy as np
import pytest

FIRST = 20
"""Updates in which only rounding differs; later it has been amplified by training."""


def furthest(ones, others):
    """Return the largest relative difference of two curves."""
    assert len(ones) == len(others) > 0
    return float(np.max(np.abs(ones - others) / np.abs(ones)))


def require_equal_metrics(ones, others, tolerance=1e-4):
    assert [sorted(record) for record in ones] == [sorted(record) for record in others]
    for one, other in zip(ones, others, strict=True):
        assert other == pytest.approx(one, rel=tolerance, abs=1e-6)


@pytest.mark.parametrize("world", [2, 3, pytest.param(5, marks=pytest.mark.long)])
def test_the_loss_curve_of_200_updates_is_that_of_one_process(on, world, figures):
    changes = {"trainer.max_updates": 200}
    (single,), ranks = on(1, changes), on(world, changes)
    early, late = furthest(single.losses[:FIRST], ranks[0].losses[:FIRST]), furthest(single.losses, ranks[0].losses)
    figures(f"curve of {world} ranks", early=early, late=late)
    assert early < 1e-5
    assert late < 1e-3
