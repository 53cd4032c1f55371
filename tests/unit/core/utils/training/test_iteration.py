"""Points in training and their text form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.core.utils.training.iteration import TrainingIteration

counts = st.integers(0, 10**12)


@given(counts, counts, counts)
def test_text_form_reads_back_to_the_same_point(epoch: int, update: int, sample: int) -> None:
    point = TrainingIteration(epoch, update, sample)
    assert str(point) == f"E{epoch}_U{update}_S{sample}"
    assert TrainingIteration.parse(str(point)) == point


@pytest.mark.parametrize("text", ["", "E1_U2", "E1_U2_S3 ", "latest", "E1_U-2_S3", "ENone_U3_SNone", "e1_u2_s3"])
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="E1_U50_S3200"):
        TrainingIteration.parse(text)
