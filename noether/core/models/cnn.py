"""`cnn`: a small convolutional network for images `(batch, channels, height, width)`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from noether.config.components import ModelBaseConfig
from noether.core.models.base import ModelBase
from noether.core.models.mlp import ACTIVATIONS, Activation, OutFeatures, infer_out_features, output_shapes
from noether.errors import SpecError


class CNNConfig(ModelBaseConfig):
    """Config of the `cnn` model."""

    channels: list[int] = Field(
        [32, 64], description="Channels of the 3x3 convolutions; all but the first halve the image."
    )
    hidden: int = Field(128, ge=1, description="Width of the layer between the pooled image and the outputs.")
    activation: Activation = Field("relu", description="Nonlinearity after each layer.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping a unit before the outputs.")
    in_channels: int | None = Field(
        None, ge=1, examples=[3], description="Channels of the image; unset: from the first sample."
    )
    out_features: OutFeatures | None = Field(
        None,
        examples=[{"label": 10}],
        description="Shape of each field's output; unset: the shape of its target in the first training sample.",
    )


class CNN(ModelBase):
    """Convolutions, global average pooling and a linear output for each field.

    Args:
        model_config: Widths; `in_channels` and `out_features` must be set.
        name: Name of the model in metrics and checkpoints.
    """

    def __init__(self, model_config: CNNConfig, *, name: str = "model") -> None:
        super().__init__(model_config, name=name)
        if not model_config.in_channels or not model_config.out_features:
            raise SpecError(
                "unknown sizes of the model 'cnn': expected in_channels and out_features",
                hint="set forward_properties and target_properties under [trainer]; the first sample gives the sizes",
            )
        activation = ACTIVATIONS[model_config.activation]
        widths = [model_config.in_channels, *model_config.channels]
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, stride=1 if index == 0 else 2, padding=1), activation()]
        layers += [
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], model_config.hidden),
            activation(),
        ]
        if model_config.dropout:
            layers.append(nn.Dropout(model_config.dropout))
        self.body = nn.Sequential(*layers)
        self.shapes = output_shapes(model_config.out_features)
        self.heads = nn.ModuleDict(
            {field: nn.Linear(model_config.hidden, math.prod(shape)) for field, shape in self.shapes.items()}
        )

    @classmethod
    def infer_sizes(
        cls, model_config: CNNConfig, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> CNNConfig:
        """Fill in missing sizes from the shapes of one sample.

        Raises:
            SpecError: if the inputs are not exactly one image.
        """
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        if len(shapes) != 1 or any(len(shape) != 3 for shape in shapes.values()):
            raise SpecError(
                f"wrong inputs of the model 'cnn': found {shapes}, expected one forward property of shape "
                "(channels, height, width)",
                hint="list one image in trainer.forward_properties, or use kind = 'mlp'",
            )
        (image,) = shapes.values()
        update = {
            "in_channels": model_config.in_channels or image[0],
            "out_features": infer_out_features(model_config.out_features, targets),
        }
        return model_config.model_copy(update=update)

    def forward(self, *inputs: Tensor, **properties: Tensor) -> dict[str, Tensor]:
        """Map an image `(batch, channels, height, width)` to fields `(batch, *shape)`."""
        (image,) = (*inputs, *properties.values())
        if not image.dtype.is_floating_point:  # pixels from 0 to 255
            image = image.to(torch.get_default_dtype())
        features = self.body(image)
        return {field: self.heads[field](features).reshape(-1, *shape) for field, shape in self.shapes.items()}
