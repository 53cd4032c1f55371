"""The callback `gradient-noise`."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from noether.core.callbacks import CallBackBaseConfig, PeriodicCallback
from noether.core.utils.training import UpdateCounter
from noether.errors import SpecError, TrainingError


class GradientNoiseConfig(CallBackBaseConfig):
    """Options of `gradient-noise` beside its interval."""

    factor: float = Field(0.95, ge=0, lt=1, description="Weight of the past in the exponential averages.")


class GradientNoiseCallback(PeriodicCallback):
    """Logs `gradient/norm` of the last update, and `gradient/noise_scale`, a batch size in samples."""

    norm: Tensor | None = None

    def __init__(self, callback_config: GradientNoiseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        if self.trainer.parallel.world > 1:
            raise SpecError(
                f"wrong number of ranks: found {self.trainer.parallel.world}, expected 1, since the gradient of a "
                "first step is that of one rank",
                hint="train with one rank, or leave the callback out",
            )
        if self.trainer.accumulation_steps == 1:
            raise SpecError(
                "wrong number of accumulation steps: found 1, expected two or more, since an update is compared with "
                "its first step",
                hint="set max_batch_size under [trainer] to half of effective_batch_size, or less",
            )
        self.factor = callback_config.factor
        self.averages = torch.zeros(2, device=self.trainer.device)  # of |G|² and of the noise of one sample

    @classmethod
    def produced_metrics(cls, config: GradientNoiseConfig, facts: Any) -> tuple[str, ...]:
        """Return the keys that it logs, so that `noether check` knows them."""
        return ("gradient/norm", "gradient/noise_scale")

    def track_after_accumulation_step(self, *, accumulation_steps: int, accumulation_step: int) -> None:
        """Measure the gradient of the first step, of which each step adds its share, scaled with precision fp16."""
        if accumulation_step > 0:
            return
        if self.trainer.loss_weights is not None:
            raise TrainingError(
                "wrong kind of loss: found one that weights accumulation steps, expected a mean over samples",
                hint="remove the callback from the spec",
            )
        scale = self.trainer.precision.grad_scale
        self.step_norm = norm_of_gradients(self.model) * accumulation_steps / (1.0 if scale is None else scale)

    def before_optimizer_step(self, *, update_counter: UpdateCounter, model: nn.Module) -> None:
        """Measure the gradient of the whole update, unscaled and before clipping, and average both estimates."""
        large, small = update_counter.effective_batch_size, self.trainer.batch_size
        self.norm = norm_of_gradients(model)
        square, step_square = self.norm**2, self.step_norm**2
        gradient = (large * square - small * step_square) / (large - small)
        noise = (step_square - square) / (1 / small - 1 / large)
        estimates = torch.stack([gradient, noise])
        averages = torch.lerp(estimates, self.averages, self.factor)
        self.averages = torch.where(estimates.isfinite().all(), averages, self.averages)

    def periodic_callback(self, **_: Any) -> None:
        """Log both; a run without updates has none."""
        if self.norm is not None:
            self.writer.add_scalar("gradient/norm", self.norm)
            gradient, noise = self.averages
            self.writer.add_scalar("gradient/noise_scale", noise / gradient, logger=self.logger, format_str=".0f")

    def state_dict(self) -> dict[str, Any] | None:
        """Return the averages, and the norm that a round repeated after a resume logs."""
        return None if self.norm is None else {"norm": self.norm, "averages": self.averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the averages of a checkpoint."""
        self.norm, self.averages = (state_dict[name].to(self.trainer.device) for name in ("norm", "averages"))


def norm_of_gradients(model: nn.Module) -> Tensor:
    """Return the Euclidean norm of all gradients."""
    return torch.nn.utils.get_total_norm([each.grad for each in model.parameters() if each.grad is not None])
