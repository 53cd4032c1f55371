"""The callbacks `rollout`, a model called on its own predictions, and `field-figure`, fields of samples in pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from noether.core.callbacks import PeriodicDataIteratorCallback, PeriodicDataIteratorCallbackConfig
from noether.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require(batch: Mapping[str, Any], *names: str, callback: str) -> None:
    """Refuse a batch that lacks a property.

    Raises:
        TrainingError: if it does.
    """
    if lacking := [name for name in names if name not in batch]:
        found = ", ".join(batch)
        raise TrainingError(
            f"callback '{callback}': missing property {' and '.join(lacking)}: found {found} in a batch",
            hint="name a field of the model and a property of the data set in the spec: field = …, input = …",
        )


def prediction_of(output: Any, field: str, callback: str) -> Tensor:
    """Return a field of the output of a model; a bare tensor is its only one.

    Raises:
        TrainingError: if the output has no such field.
    """
    if isinstance(output, Tensor):
        return output
    if not isinstance(output, Mapping) or field not in output:
        found = ", ".join(output) if isinstance(output, Mapping) else type(output).__name__
        raise TrainingError(
            f"callback '{callback}': missing output '{field}' of the model: found {found}",
            hint="name a field of the model in the spec: field = …",
        )
    predicted: Tensor = output[field]
    return predicted


class RolloutConfig(PeriodicDataIteratorCallbackConfig):
    """Options of `rollout`, beside its interval and its data set."""

    field: str = Field(
        examples=["u_next"], description="Field that the model predicts; its target are all later frames."
    )
    input: str = Field(examples=["u"], description="Property with the frames that the model is given first.")


class RolloutCallback(PeriodicDataIteratorCallback):
    """Lets the model predict a whole trajectory from its first frames, and logs its relative L2 error.

    The first dimension of `input` and of the target counts frames (or frames times channels). Predicted frames take the
    place of the oldest ones until there are as many as in the target. It logs `rollout/{dataset_key}/{field}`, the mean
    over samples of the norm of the error of all frames over the norm of the target, and
    `rollout_end/{dataset_key}/{field}`, the same of the last call of the model alone. Errors are in the units of the
    data; a model whose input and target are transformed differently is refused.
    """

    def __init__(self, callback_config: RolloutConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.field, self.input = callback_config.field, callback_config.input
        self.target = f"{self.field}_target"

    @classmethod
    def produced_metrics(cls, config: RolloutConfig, facts: Any) -> tuple[str, ...]:
        """Return the keys that it logs."""
        place = f"{facts.dataset_key(config.dataset_key)}/{config.field}"
        return (f"rollout/{place}", f"rollout_end/{place}")

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: Any) -> dict[str, Tensor]:
        """Return both errors of each sample."""
        require(batch, self.input, self.target, callback=self.id)
        self._require_one_unit(batch)
        predicted, last = self.predict(batch, trainer_model)
        truth = batch[self.target]
        predicted, truth = (self.in_units(self.target, frames) for frames in (predicted, truth))
        return {
            "all": relative_l2(predicted, truth),
            "end": relative_l2(predicted[:, -last:], truth[:, -last:]),
        }

    def predict(self, batch: dict[str, Tensor], model: Any) -> tuple[Tensor, int]:
        """Return the predicted frames, of the shape of the target, and the frames of the last call among them."""
        window, wanted = batch[self.input], batch[self.target].shape[1]
        frames: list[Tensor] = []
        while (missing := wanted - sum(part.shape[1] for part in frames)) > 0:
            output = self.trainer.forward({**batch, self.input: window}, model)
            step = prediction_of(output, self.field, self.id)
            if step.shape[2:] != window.shape[2:]:
                raise TrainingError(
                    f"callback '{self.id}': wrong shape of '{self.field}': found {tuple(step.shape)}, expected the "
                    f"grid {tuple(window.shape[2:])} of '{self.input}', so that it can be the next input"
                )
            frames.append(step[:, :missing])
            window = torch.cat([window, step], dim=1)[:, -window.shape[1] :]
        return torch.cat(frames, dim=1), frames[-1].shape[1]

    def _require_one_unit(self, batch: dict[str, Tensor]) -> None:
        """Refuse predictions that mean something else as inputs."""
        probe = torch.stack([torch.zeros_like(batch[self.input]), torch.ones_like(batch[self.input])]).flatten(0, 1)
        try:
            equal = torch.equal(self.in_units(self.input, probe), self.in_units(self.target, probe))
        except RuntimeError:  # statistics by channel, of different numbers of channels
            equal = False
        if not equal:
            raise TrainingError(
                f"callback '{self.id}': '{self.input}' and '{self.target}' are transformed differently, so that a "
                "prediction is no input",
                hint="leave both out of `normalize`, or transform both in the same way",
            )

    def process_results(self, results: dict[str, Tensor], **_: Any) -> None:
        """Log the means over all samples."""
        for name, key in (("all", "rollout"), ("end", "rollout_end")):
            self.writer.add_scalar(f"{key}/{self.data_name}/{self.field}", results[name].mean())


def relative_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the norm of the error over the norm of the target, by sample."""
    return (prediction - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)


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
