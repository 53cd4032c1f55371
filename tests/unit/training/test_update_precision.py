"""Number formats of the forward pass."""

from __future__ import annotations

import pytest
import torch

from noether.errors import SpecError
from noether.training.update import Precision

CPU = torch.device("cpu")


def product(precision: Precision) -> torch.Tensor:
    with precision.autocast():
        return torch.ones(2, 2) @ torch.ones(2, 2)


@pytest.mark.parametrize("name", ["fp32", "float32"])
def test_float32_needs_no_context(name: str) -> None:
    precision = Precision(name, CPU)
    assert precision.dtype is None
    assert precision.scaler is None
    assert product(precision).dtype is torch.float32


@pytest.mark.parametrize(
    ("names", "dtype"), [(("bf16", "bfloat16"), torch.bfloat16), (("fp16", "float16"), torch.float16)], ids=str
)
def test_mixed_precision_runs_matrix_products_in_its_format(names: tuple[str, str], dtype: torch.dtype) -> None:
    for name in names:
        precision = Precision(name, CPU)
        assert precision.dtype is not None
        assert product(precision).dtype is dtype
        assert product(precision).dtype is dtype  # the context can be entered again


def test_only_fp16_needs_a_gradient_scaler() -> None:
    assert Precision("bf16", CPU).scaler is None
    assert isinstance(Precision("fp16", CPU).scaler, torch.amp.GradScaler)


def test_a_format_that_the_device_lacks_is_refused_at_the_start() -> None:
    with pytest.raises(SpecError) as caught:
        Precision("bf16", torch.device("meta"))
    assert "'bf16'" in str(caught.value)
    assert "meta" in str(caught.value)
