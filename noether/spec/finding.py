"""Finding: a problem with the meaning of a spec, certain or not."""

from __future__ import annotations

from typing import NamedTuple

from noether.spec.problem import Problem


class Finding(NamedTuple):
    """Something that looks wrong.

    Attributes:
        problem: What, and where.
        certain: Whether it is wrong; else somebody who takes part does not say what it does, and it may be right.
    """

    problem: Problem
    certain: bool = True
