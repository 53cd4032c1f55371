"""The built-in convolutional network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from noether.core.models.cnn import CNN, CNNConfig
from noether.errors import SpecError

shapes = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.dictionaries(st.sampled_from(["label", "drag"]), shapes, min_size=1),
)
def test_outputs_have_the_shapes_of_the_targets_that_sizes_were_inferred_from(
    channels: int, height: int, width: int, targets: dict[str, tuple[int, ...]]
) -> None:
    config = CNN.infer_sizes(
        CNNConfig(kind="cnn", channels=[2, 3], hidden=4),
        {"image": torch.zeros(channels, height, width)},
        {name: torch.zeros(shape) for name, shape in targets.items()},
    )
    outputs = CNN(config)(image=torch.zeros(2, channels, height, width))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        name: (2, *shape) for name, shape in targets.items()
    }


@pytest.mark.parametrize(
    "inputs",
    [{"x": torch.zeros(3)}, {"a": torch.zeros(1, 4, 4), "b": torch.zeros(1, 4, 4)}, {}],
    ids=["no image", "two images", "nothing"],
)
def test_anything_but_one_image_is_refused(inputs: dict[str, torch.Tensor]) -> None:
    with pytest.raises(SpecError) as error:
        CNN.infer_sizes(CNNConfig(kind="cnn"), inputs, {"label": torch.tensor(1)})
    assert "trainer.forward_properties" in str(error.value.hint)


def test_all_convolutions_but_the_first_halve_the_image() -> None:
    model = CNN(CNNConfig(kind="cnn", channels=[2, 4, 8], in_channels=1, out_features={"label": 10}, dropout=0.1))
    strides = [layer.stride for layer in model.body if isinstance(layer, nn.Conv2d)]
    assert strides == [(1, 1), (2, 2), (2, 2)]


def test_given_sizes_win_over_inferred_ones() -> None:
    config = CNNConfig(kind="cnn", out_features={"label": 10})
    found = CNN.infer_sizes(config, {"image": torch.zeros(3, 8, 8)}, {"label": torch.tensor(3)})
    assert (found.in_channels, found.out_features) == (3, {"label": 10})
