"""`cnn`: a small convolutional network for images `(batch, channels, height, width)`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from noether.config.components import ModelBaseConfig
from noether.core.models.base import ModelBase
from noether.core.models.mlp import ACTIVATIONS, Activation
from noether.errors import SpecError


class CNNConfig(ModelBaseConfig):
    """Settings of the `cnn` model."""

    channels: list[int] = Field(
        [32, 64], description="Channels of the 3x3 convolutions; all but the first halve the image."
    )
    hidden: int = Field(128, ge=1, description="Width of the layer between the pooled image and the outputs.")
    activation: Activation = Field("relu", description="Nonlinearity after each layer.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping a unit before the outputs.")
    in_channels: int | None = Field(
        None, ge=1, examples=[3], description="Channels of the image; unset: from the first sample."
    )
    out_features: dict[str, int | list[int]] | None = Field(
        None,
        examples=[{"label": 10}],
        description="Shape of each field's output; unset: that of its target in the first training sample.",
    )


class CNN(ModelBase):
    """Convolutions, global average pooling and a linear output for each field.

    Args:
        model_config: Widths; `in_channels` and `out_features` must be known.
        name: How metrics and checkpoints call this model.
    """

    def __init__(self, model_config: CNNConfig, *, name: str = "model") -> None:
        super().__init__(model_config, name=name)
        if not model_config.in_channels or not model_config.out_features:
            raise SpecError(
                "the model 'cnn' needs to know its in_channels and out_features",
                hint="name forward_properties and target_properties under [trainer]; the first sample has the sizes",
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
        self.shapes = {
            field: (shape,) if isinstance(shape, int) else tuple(shape)
            for field, shape in model_config.out_features.items()
        }
        self.heads = nn.ModuleDict(
            {field: nn.Linear(model_config.hidden, math.prod(shape)) for field, shape in self.shapes.items()}
        )

    @classmethod
    def infer_sizes(
        cls, model_config: CNNConfig, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> CNNConfig:
        """Take the sizes that are not given from the shapes of one sample.

        Raises:
            SpecError: There is not exactly one image among the inputs.
        """
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        if len(shapes) != 1 or any(len(shape) != 3 for shape in shapes.values()):
            raise SpecError(
                f"the model 'cnn' takes one forward property of shape (channels, height, width); found {shapes}",
                hint="name one image in trainer.forward_properties, or use kind = 'mlp'",
            )
        (image,) = shapes.values()
        inferred = {field: list(value.shape) for field, value in targets.items()}
        update = {
            "in_channels": model_config.in_channels or image[0],
            "out_features": {**inferred, **(model_config.out_features or {})},
        }
        return model_config.model_copy(update=update)

    def forward(self, *inputs: Tensor, **properties: Tensor) -> dict[str, Tensor]:
        """Map an image `(batch, channels, height, width)` to fields `(batch, *shape)`."""
        (image,) = (*inputs, *properties.values())
        features = self.body(image)
        return {field: self.heads[field](features).reshape(-1, *shape) for field, shape in self.shapes.items()}
