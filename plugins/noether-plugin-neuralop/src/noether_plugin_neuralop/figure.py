"""The callback `field-figure`: input, truth, prediction and error of a few samples, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field
from torch import Tensor

from noether.core.callbacks import PeriodicDataIteratorCallback, PeriodicDataIteratorCallbackConfig
from noether_plugin_neuralop.fields import prediction_of, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FieldFigureConfig(PeriodicDataIteratorCallbackConfig):
    """Options of `field-figure`, beside its interval and its data set."""

    field: str = Field(examples=["pressure"], description="Field that the model predicts.")
    input: str = Field(examples=["permeability"], description="Property that is drawn beside it.")
    samples: int = Field(3, ge=1, description="Samples to draw, from the first of the data set on.")


class FieldFigureCallback(PeriodicDataIteratorCallback):
    """Draws input, truth, prediction and error of the first samples of a data set, in the units of the data.

    A sample is drawn as an image: a tensor of shape (channels, height, width) by its first channel, one of shape
    (channels, width) as it is, such as the frames of a trajectory. Truth and prediction have the same colours for the
    same values.

    Args:
        callback_config: Interval, data set, field and input.
        **kwargs: Arguments of `PeriodicCallback`.
    """

    def __init__(self, callback_config: FieldFigureConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.field, self.input = callback_config.field, callback_config.input
        self.max_size = min(callback_config.samples, self.max_size or callback_config.samples)

    @classmethod
    def produced_metrics(cls, config: FieldFigureConfig, facts: Any) -> tuple[str, ...]:
        """Return nothing: it logs no metric."""
        return ()

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: Any) -> dict[str, Tensor]:
        """Return input, truth and prediction of each sample."""
        target = f"{self.field}_target"
        require(batch, self.input, target, callback=self.id)
        output = self.trainer.forward(batch, trainer_model)
        prediction = prediction_of(output, self.field, self.id)
        named = (("input", self.input, batch[self.input]), ("truth", target, batch[target]))
        shown = {title: self.in_units(name, values) for title, name, values in named}
        return {**shown, "prediction": self.in_units(target, prediction.float())}

    def process_results(self, results: dict[str, Tensor], **_: Any) -> None:
        """Draw them."""
        images = {title: [_image(sample) for sample in values.float().cpu()] for title, values in results.items()}
        self.writer.add_figure(f"fields/{self.data_name}/{self.field}", drawn(images, self.input, self.field))


def drawn(images: dict[str, list[Any]], input: str, field: str) -> Figure:
    """Return a figure with a row for each sample.

    Args:
        images: Two-dimensional arrays by title: input, truth, prediction.
        input: Name of the input.
        field: Name of the predicted field.
    """
    from matplotlib.figure import Figure

    rows = len(images["truth"])
    height = 2.6 * rows  # inches, as all lengths here
    figure = Figure(figsize=(11, height))
    edges = {"bottom": 0.1 / height, "top": 1 - 0.3 / height, "left": 0.01, "right": 0.97}
    figure.subplots_adjust(**edges, hspace=0.15, wspace=0.1)  # a constrained layout would take twice as long
    axes = figure.subplots(rows, 4, squeeze=False)
    for row, (given, truth, prediction) in enumerate(
        zip(images["input"], images["truth"], images["prediction"], strict=True)
    ):
        error = prediction - truth
        largest = abs(error).max()
        low, high = truth.min(), truth.max()
        panels = (
            (f"{input}", given, {"cmap": "gray"}),
            (f"{field}: truth", truth, {"vmin": low, "vmax": high}),
            (f"{field}: prediction", prediction, {"vmin": low, "vmax": high}),
            ("", error, {"vmin": -largest, "vmax": largest, "cmap": "RdBu_r"}),
        )
        for place, (title, image, colours) in zip(axes[row], panels, strict=True):
            shown = place.imshow(image, origin="lower", aspect="auto", **colours)
            place.set(title=title, xticks=[], yticks=[])
            figure.colorbar(shown, ax=place, shrink=0.85)
        relative = ((error**2).sum() / (truth**2).sum()) ** 0.5
        axes[row][3].set_title(f"error ({100 * relative:.1f} % in L2)")
    return figure


def _image(sample: Tensor) -> Any:
    while sample.ndim > 2:
        sample = sample[0]
    return sample.reshape(-1, sample.shape[-1]).numpy()
