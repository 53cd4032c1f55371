"""Callbacks of the documentation."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback, PeriodicDataIteratorCallback
from noether.core.utils.training import UpdateCounter


class CustomMetricCallback(PeriodicCallback):
    def periodic_callback(
        self,
        *,
        interval_type: IntervalType,
        update_counter: UpdateCounter,
        **kwargs,
    ) -> None:
        # This method is called every 10 epochs
        metric_value = self.compute_expensive_metric()
        self.writer.add_scalar(
            key="custom_metric",
            value=metric_value,
            logger=self.logger,
        )

    def compute_expensive_metric(self):  # left open by the documentation
        return torch.stack([parameter.square().sum() for parameter in self.model.parameters()]).sum()


class RunningAverageCallback(PeriodicCallback):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_accumulator = []

    def track_after_update_step(self, *, update_counter: UpdateCounter, times: dict[str, float]) -> None:
        # Track at every update
        self.loss_accumulator.append(self.trainer.last_loss)

    def periodic_callback(
        self,
        *,
        interval_type: IntervalType,
        update_counter: UpdateCounter,
        **kwargs,
    ) -> None:
        # Log periodically
        avg_loss = sum(self.loss_accumulator) / len(self.loss_accumulator)
        self.writer.add_scalar("avg_loss", avg_loss, logger=self.logger)
        self.loss_accumulator.clear()


class AccuracyCallback(PeriodicDataIteratorCallback):
    def __init__(self, *args, dataset_key="test", **kwargs):
        super().__init__(*args, **kwargs)
        self.dataset_key = dataset_key

    def process_data(self, batch, *, trainer_model):
        # Run inference on batch
        x = batch["x"].to(trainer_model.device)
        y_true = batch["class"].clone()
        y_pred = trainer_model(x)
        return {"predictions": y_pred, "labels": y_true}

    def process_results(self, results, *, interval_type, update_counter, **_):
        # Compute accuracy from aggregated results
        y_pred = results["predictions"]
        y_true = results["labels"]

        accuracy = (y_pred.argmax(dim=1) == y_true).float().mean()
        self.writer.add_scalar(
            key="test/accuracy",
            value=accuracy.item(),
            logger=self.logger,
            format_str=".4f",
        )


class DetailedEvaluationCallback(PeriodicDataIteratorCallback):
    def process_data(self, batch, *, trainer_model):
        x = batch["x"]
        y = batch["label"]

        # Return multiple outputs as tuple
        logits = trainer_model(x)
        embeddings = trainer_model.get_embeddings(x)
        return logits, embeddings, y

    def process_results(self, results, *, interval_type, update_counter, **_):
        # results is a tuple: (all_logits, all_embeddings, all_labels)
        logits, embeddings, labels = results

        # Compute multiple metrics
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        mean_embedding_norm = embeddings.norm(dim=-1).mean()

        self.writer.add_scalar("accuracy", accuracy.item())
        self.writer.add_scalar("embedding_norm", mean_embedding_norm.item())


class QuietAccuracyCallback(PeriodicCallback):
    """The first of the two ways to log, in a callback around it."""

    def periodic_callback(self, **_):
        # log only to experiment tracker, not stdout
        self.writer.add_scalar(key="classification_accuracy", value=0.2)


class LoudAccuracyCallback(PeriodicCallback):
    """The second."""

    def periodic_callback(self, **_):
        # log to experiment tracker and stdout (as "0.24")
        self.writer.add_scalar(
            key="classification_accuracy",
            value=0.23623,
            logger=self.logger,
            format_str=".2f",
        )


class WholeTrainingConfig(CallBackBaseConfig):
    needs_interval = False


class WholeTrainingCallback(CallbackBase):
    """Executes something before and after training, as the base class is documented to allow."""

    def __init__(self, callback_config: WholeTrainingConfig, **kwargs):
        super().__init__(**kwargs)

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        self.weights = [parameter.clone() for parameter in self.model.parameters()]

    def after_training(self, *, update_counter: UpdateCounter) -> None:
        pairs = zip(self.weights, self.model.parameters(), strict=True)
        moved = torch.stack([(now - then).norm() for then, now in pairs]).norm()
        self.writer.add_scalar(key="distance", value=moved)


class StepLosses(PeriodicCallback):
    """Logs the loss of each accumulation step, to compare it with `trainer.last_loss`."""

    def track_after_accumulation_step(self, *, losses, accumulation_step, **_):
        self.writer.add_scalar(f"step_{accumulation_step}", losses["total"])


class WeightHistory(PeriodicCallback):
    """Writes the weights after every update to `weights/<update>.safetensors`, to compute averages of them by hand."""

    def before_training(self, *, update_counter):
        Path("weights").mkdir(exist_ok=True)
        self.track_after_update_step(update_counter=update_counter, times={})

    def track_after_update_step(self, *, update_counter, times):
        save_file(self.model.state_dict(), f"weights/{update_counter.update}.safetensors")


class StepOutputs(PeriodicCallback):
    """Logs the trainer's additional outputs of each accumulation step."""

    def track_after_accumulation_step(self, *, update_outputs, accumulation_step, **_):
        for name, output in update_outputs.items():
            self.writer.add_scalar(f"{name}_{accumulation_step}", output)


class Farewell(CallbackBase):
    def after_training(self, *, update_counter: UpdateCounter) -> None:
        self.writer.add_scalar("farewell", update_counter.update)
