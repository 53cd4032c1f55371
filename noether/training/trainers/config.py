"""BaseTrainerConfig: settings of every trainer; and the forward passes that follow from them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Generic, Literal

from pydantic import Field, model_validator
from typing_extensions import TypeVar

from noether.config.base import _RegistryBase
from noether.config.components import CallBackBaseConfig, SamplingTable
from noether.config.discriminated import Discriminated
from noether.errors import SpecError
from noether.kernel.progress import TrainingIteration
from noether.metrics.results import Limits

TCallbackConfig = TypeVar("TCallbackConfig", bound=CallBackBaseConfig, default=CallBackBaseConfig)
Precision = Literal["float32", "fp32", "float16", "fp16", "bfloat16", "bf16"]
StopSignal = Literal["SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU"]
Layout = Literal["replicated", "fsdp2"]
Reduce = Literal["exact", "ddp"]
UpdateForm = Literal["eager", "compiled", "graph", "auto"]
LIMITS = ("max_epochs", "max_updates", "max_samples")


class BaseTrainerConfig(_RegistryBase, Generic[TCallbackConfig]):
    """Settings of a training run that do not depend on its loss."""

    role: ClassVar[str] = "trainer"

    max_epochs: int | None = Field(
        None, ge=0, examples=[100], description="Epochs to train for; 0 trains nothing and calls every callback once."
    )
    max_updates: int | None = Field(
        None, ge=0, examples=[20_000], description="Updates to train for, instead of max_epochs."
    )
    max_samples: int | None = Field(
        None, ge=0, examples=[1_000_000], description="Samples to train for, instead of max_epochs."
    )
    start_at_epoch: int | None = Field(
        None, ge=0, examples=[10], description="Epoch to begin at; schedules and the order of the data begin there too."
    )
    add_default_callbacks: bool | None = Field(
        True, description="Add callbacks that log losses, learning rate, progress, sizes, times and memory."
    )
    add_trainer_callbacks: bool | None = Field(True, description="Add the callbacks of the trainer's kind.")
    effective_batch_size: int = Field(
        ge=1, examples=[64], description="Samples in one update, over all ranks and accumulation steps."
    )
    sampling: SamplingTable | None = Field(
        None,
        examples=[{"kind": "balanced", "by": "label_target"}],
        description="Order of training other than each sample once: drawn by weight, balanced by class, or sorted into "
        "buckets by size. Unset: each sample once an epoch.",
    )
    precision: Precision = Field("float32", description="Number format of the forward pass; parameters stay float32.")
    callbacks: list[Annotated[TCallbackConfig, Discriminated(CallBackBaseConfig)]] | None = Field(
        None,
        examples=[[{"kind": "checkpoint", "every_n_epochs": 1}]],
        description="Callbacks of the run, called in this order.",
    )
    initializer: Annotated[Any, Discriminated("initializer")] | None = Field(
        None,
        examples=[{"kind": "my_project.weights.Pretrained"}],
        description="Source of the initial state of training; [initializer] means the same.",
    )
    log_every_n_epochs: int | None = Field(None, ge=1, examples=[1], description="Epochs between lines of progress.")
    log_every_n_updates: int | None = Field(None, ge=1, examples=[50], description="Updates between lines of progress.")
    log_every_n_samples: int | None = Field(
        None, ge=1, examples=[10_000], description="Samples between lines of progress."
    )
    track_every_n_epochs: int | None = Field(
        None, ge=1, examples=[1], description="Epochs between metrics of the default callbacks."
    )
    track_every_n_updates: int | None = Field(
        None, ge=1, examples=[50], description="Updates between metrics of the default callbacks."
    )
    track_every_n_samples: int | None = Field(
        None, ge=1, examples=[10_000], description="Samples between metrics of the default callbacks."
    )
    max_batch_size: int | None = Field(
        None, ge=1, examples=[16], description="Largest batch of one forward pass on one rank; more is accumulated."
    )
    skip_nan_loss: bool = Field(
        False, description="Skip an update if its loss or a gradient is not finite, and continue."
    )
    skip_nan_loss_max_count: int = Field(
        100,
        ge=1,
        json_schema_extra={"unit": "updates"},
        description="Skipped updates in a row at which the run fails.",
    )
    disable_gradient_accumulation: bool = Field(
        False, description="Refuse to run if gradients would have to be accumulated."
    )
    save_on_sigint: bool = Field(False, description="Commit a checkpoint on Ctrl-C too, as on SIGTERM.")
    stop_signals: list[StopSignal] = Field(
        default_factory=list,
        examples=[["SIGUSR1"]],
        description="Signals that end the run as SIGTERM does: after the current update, with a checkpoint. Schedulers "
        "send one before their time limit.",
    )
    hook_timeout_s: float | None = Field(
        None,
        gt=0,
        examples=[3600.0],
        description="Seconds after which a hook that has not returned ends the run: a pass over data within it counts. "
        "The log gets its callback and the stack of every thread. Unset: never.",
    )
    update: UpdateForm = Field(
        "eager",
        description="Form of an update. `compiled`: one graph of forward pass, backward pass and optimizer on a CPU, "
        "equal to eager within rounding. `graph`: one CUDA graph, equal to eager bit for bit. `auto`: the fastest form "
        "that equals eager bit for bit. A form that is not possible gives way to eager, and the run says why.",
    )
    use_torch_compile: bool = Field(False, description="Compile the model with torch.compile.")
    parallel: Layout = Field(
        "replicated",
        description="Place of the model on several ranks. `replicated`: each rank has the whole model. `fsdp2`: each "
        "rank has a share of all parameters, gradients and optimizer states, and gathers the parameters of one module "
        "while it computes, by torch's fully_shard; for a model that does not fit on one device.",
    )
    shard: list[str] | None = Field(
        None,
        examples=[["blocks.*"]],
        description="Modules whose parameters are gathered together with `fsdp2`, as patterns of names; those of no "
        "such module are gathered once for the whole model. Unset: each module of 16 million parameters or more.",
    )
    reduce: Reduce = Field(
        "exact",
        description="Exchange of gradients between ranks that each have the whole model. `exact`: once an update in "
        "one buffer, in the order of names, so that a run that was restarted ends with the same bytes. `ddp`: by "
        "DistributedDataParallel, during the backward pass; with three ranks or more, a restart may change the last "
        "bits.",
    )
    find_unused_params: bool = Field(
        False,
        description="Parameters may have gradients in some updates only: DistributedDataParallel's "
        "find_unused_parameters, and for `exact` on accelerators.",
    )
    static_graph: bool = Field(False, description="DistributedDataParallel's static_graph.")
    forward_properties: list[str] | None = Field(
        [], examples=[["points"]], description="Properties of a batch that the model is called with."
    )
    target_properties: list[str] | None = Field(
        [], examples=[["pressure_target"]], description="Properties of a batch that the loss compares with."
    )
    outputs: dict[str, str | int] | None = Field(
        None,
        examples=[{"pressure": "logits"}],
        description="Place of each field in the output of the model: a key or an attribute, an index of a tuple, or a "
        "path such as `hidden.0`. Unset: keys of a mapping, attributes of a dataclass.",
    )
    dataloader_prefetch_factor: int | None = Field(
        None, ge=1, examples=[4], description="Batches that each worker prepares ahead; overrides the loader's own."
    )
    max_results: int = Field(
        Limits().number,
        ge=0,
        description="Figures, tables, histograms and files that a run keeps; further ones are left out, which the log "
        "says once.",
    )
    max_results_mb: int = Field(
        Limits().size // 10**6, ge=0, description="Megabytes that all of them may have together."
    )
    monitor_training_stability: bool = Field(
        False, description="Log gradient norm, model norm and the scale of the gradient scaler."
    )
    monitor_interval: int | None = Field(
        None,
        ge=1,
        examples=[100],
        json_schema_extra={"unit": "updates"},
        description="Updates between logs of training stability; unset: the interval of the other default metrics.",
    )

    @property
    def end_iteration(self) -> TrainingIteration:
        """The limit of the run."""
        return TrainingIteration(self.max_epochs, self.max_updates, self.max_samples)

    @property
    def result_limits(self) -> Limits:
        """Most results that the run keeps."""
        return Limits(self.max_results, self.max_results_mb * 10**6)

    @model_validator(mode="after")
    def validate_callback_frequency(self) -> BaseTrainerConfig[TCallbackConfig]:
        """Refuse two frequencies for the same default callbacks."""
        for verb in ("log", "track"):
            given = [f"{verb}_every_n_{unit}" for unit in ("epochs", "updates", "samples")]
            given = [name for name in given if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"more than one interval: found {' and '.join(given)}, expected one of them")
        return self

    @model_validator(mode="after")
    def validate_max_training_criteria(self) -> BaseTrainerConfig[TCallbackConfig]:
        """Refuse anything but exactly one limit."""
        given = [name for name in LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"wrong number of limits: found {found}, expected exactly one of {', '.join(LIMITS)}")
        return self


def cut_update(
    effective_batch_size: int,
    *,
    max_batch_size: int | None = None,
    world_size: int = 1,
    accumulate: bool = True,
) -> tuple[int, int]:
    """Cut an update into the fewest equal forward passes that fit; return the samples of one, and their number.

    Args:
        effective_batch_size: Samples of an update over all ranks.
        max_batch_size: Most samples of one forward pass on one rank; None for no bound.
        world_size: Number of ranks.
        accumulate: True if an update may have more than one forward pass.

    Raises:
        SpecError: if the sizes do not divide, or if accumulation is needed and not allowed.
    """
    per_rank, rest = divmod(effective_batch_size, world_size)
    if rest:
        raise SpecError(
            f"wrong effective_batch_size: found {effective_batch_size}, expected a multiple of the {world_size} ranks",
            hint=f"-s trainer.effective_batch_size={max(per_rank, 1) * world_size}, or start a number of ranks that "
            f"divides {effective_batch_size}",
        )
    bound = min(max_batch_size or per_rank, per_rank)
    batch_size = next(size for size in range(bound, 0, -1) if per_rank % size == 0)
    if batch_size < per_rank and not accumulate:
        raise SpecError(
            f"wrong max_batch_size: found {max_batch_size}, expected at least {per_rank}, the samples of an update on "
            "each rank, because disable_gradient_accumulation is true",
            hint="raise max_batch_size, lower effective_batch_size, or allow accumulation",
        )
    return batch_size, per_rank // batch_size
