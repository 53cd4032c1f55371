"""`mlp`: a multilayer perceptron over the concatenated forward properties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from noether.config.components import ModelBaseConfig
from noether.core.models.base import ModelBase
from noether.errors import SpecError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
Activation = Literal["relu", "gelu", "silu", "tanh"]


OutFeatures = dict[str, int | list[int]]


def output_shapes(out_features: OutFeatures) -> dict[str, tuple[int, ...]]:
    """Return the shape of each field's output, without the batch dimension."""
    return {field: (shape,) if isinstance(shape, int) else tuple(shape) for field, shape in out_features.items()}


def infer_out_features(out_features: OutFeatures | None, targets: Mapping[str, Tensor]) -> OutFeatures:
    """Return the shapes that the config gives; for other fields those of their targets in one sample."""
    return {field: list(value.shape) for field, value in targets.items()} | (out_features or {})


class MLPConfig(ModelBaseConfig):
    """Config of the `mlp` model."""

    hidden: list[int] = Field([128, 128], description="Widths of the hidden layers.")
    activation: Activation = Field("gelu", description="Nonlinearity after each hidden layer.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping a hidden unit.")
    octaves: int = Field(
        0,
        ge=0,
        description="Number of doubling frequencies whose sine and cosine of the inputs are also fed; for coordinates.",
    )
    in_features: dict[str, int] | None = Field(
        None,
        examples=[{"points": 3}],
        description="Number of values in each forward property; unset: from the first training sample.",
    )
    out_features: OutFeatures | None = Field(
        None,
        examples=[{"velocity": 3}],
        description="Shape of each field's output; unset: the shape of its target in the first training sample.",
    )


class MLP(ModelBase):
    """Multilayer perceptron over flattened, concatenated inputs `(batch, ...)`, with one output for each field.

    Args:
        model_config: Widths and shapes; `in_features` and `out_features` must be set.
        name: Name of the model in metrics and checkpoints.
    """

    def __init__(self, model_config: MLPConfig, *, name: str = "model") -> None:
        super().__init__(model_config, name=name)
        if not model_config.in_features or not model_config.out_features:
            raise SpecError(
                "unknown sizes of the model 'mlp': expected in_features and out_features",
                hint="set forward_properties and target_properties under [trainer]; the first sample gives the sizes",
            )
        self.inputs = list(model_config.in_features)
        self.shapes = output_shapes(model_config.out_features)
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.only_input = self.inputs[0] if len(self.inputs) == 1 else None
        self.only_field = next(iter(self.shapes)) if len(self.shapes) == 1 else None
        self.octaves = model_config.octaves
        num_inputs = sum(model_config.in_features.values()) * (1 + 2 * self.octaves)
        widths = [num_inputs, *model_config.hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), ACTIVATIONS[model_config.activation]()]
            if model_config.dropout:
                layers.append(nn.Dropout(model_config.dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], sum(self.sizes)))

    @classmethod
    def infer_sizes(
        cls, model_config: MLPConfig, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> MLPConfig:
        """Fill in missing sizes from the shapes of one sample."""
        in_features = model_config.in_features or {name: value.numel() for name, value in inputs.items()}
        out_features = infer_out_features(model_config.out_features, targets)
        return model_config.model_copy(update={"in_features": in_features, "out_features": out_features})

    def check_inputs(self, names: Sequence[str]) -> None:
        """Check before training that the forward properties include those of `in_features`.

        Without any, the trainer chooses the inputs itself.

        Raises:
            SpecError: if one is missing.
        """
        missing = [name for name in self.inputs if name not in names]
        if names and missing:
            raise SpecError(
                f"wrong trainer.forward_properties: found {list(names)}, expected {missing} as in in_features",
                hint="list the properties of in_features in forward_properties, or remove in_features",
            )

    def forward(self, *inputs: Tensor, **properties: Tensor) -> dict[str, Tensor]:
        """Map properties `(batch, ...)`, by name or in the order of `in_features`, to fields `(batch, *shape)`."""
        if inputs:
            properties = dict(zip(self.inputs, inputs, strict=True))
        if self.only_input is not None:
            flat = properties[self.only_input]
            flat = flat if flat.ndim == 2 else _flat(flat)
        else:
            flat = torch.cat([_flat(properties[name]) for name in self.inputs], dim=1)
        if not flat.dtype.is_floating_point:  # columns of whole numbers
            flat = flat.to(torch.get_default_dtype())
        out = self.layers(self._with_octaves(flat) if self.octaves else flat)
        if self.only_field is not None:
            shape = self.shapes[self.only_field]
            return {self.only_field: out if len(shape) == 1 else out.reshape(-1, *shape)}
        parts = out.split(self.sizes, dim=1)
        return {
            field: part.reshape(-1, *shape) for (field, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def _with_octaves(self, flat: Tensor) -> Tensor:
        """Append `sin(2^k x)` and `cos(2^k x)`: a small network then learns fine detail (Tancik et al., 2020)."""
        scaled = torch.cat([flat * 2**octave for octave in range(self.octaves)], dim=1)
        return torch.cat([flat, scaled.sin(), scaled.cos()], dim=1)


def _flat(values: Tensor) -> Tensor:
    """Return `(batch, ...)` as `(batch, values)`; one value a sample, `(batch,)`, as `(batch, 1)`."""
    return values.unsqueeze(1) if values.ndim == 1 else values.flatten(1)
