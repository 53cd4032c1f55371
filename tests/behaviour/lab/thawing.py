"""Models and callbacks whose parameters and optimizers grow, shrink and change while they train."""

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils import prune  # noqa: F401 -- nn.utils does not import it by itself

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback


class Layers(nn.Module):
    """An encoder of two layers, and a head."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return {"y": self.head(self.encoder(x))}


class Late(nn.Module):
    """Makes its head when it sees the first batch."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 4)
        self.head = None

    def forward(self, x):
        hidden = self.lin(x)
        if self.head is None:
            self.head = nn.Linear(4, 2)
        return {"y": self.head(hidden)}


class Lazy(nn.Module):
    """A convolution, a norm and a layer that infer their sizes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.LazyConv1d(4, 1)
        self.norm = nn.LazyBatchNorm1d()
        self.lin = nn.LazyLinear(2)

    def forward(self, x):
        return {"y": self.lin(self.norm(self.conv(x[:, None])).flatten(1))}


class Unused(nn.Module):
    """Has a lazy layer that its forward does not use."""

    def __init__(self):
        super().__init__()
        self.lin = nn.LazyLinear(2)
        self.spare = nn.LazyLinear(2)

    def forward(self, x):
        return {"y": self.lin(x)}


class UnfreezeConfig(CallBackBaseConfig):
    at: int = Field(5, description="Updates after which it acts.")
    pattern: str = Field("encoder.*", description="Which parameters.")
    lr: float | None = Field(None, description="Their learning rate.")


class Unfreeze(PeriodicCallback):
    """Lets parameters train from an update on."""

    def __init__(self, callback_config: UnfreezeConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.config = callback_config

    def act(self):
        self.trainer.unfreeze(self.config.pattern, lr=self.config.lr)

    def before_training(self, *, update_counter):
        if self.config.at == 0:
            self.act()

    def periodic_callback(self, *, update_counter, **_):
        if update_counter.update == self.config.at:
            self.act()


class Hasty(Unfreeze):
    """Acts within an update."""

    def track_after_accumulation_step(self, *, update_counter, accumulation_step, **_):
        if update_counter.update == self.config.at and accumulation_step == 0:
            self.act()


class AddGroup(Unfreeze):
    """The same by hand, as plain PyTorch does it."""

    def act(self):
        named = dict(self.model.named_parameters())
        members = [named[name].requires_grad_(True) for name in named if name.startswith(self.config.pattern)]
        self.model.optimizer.torch_optimizer.add_param_group({"params": members, "lr": self.config.lr or 0.05})


class Sneak(Unfreeze):
    """Unfreezes behind the trainer's back."""

    def act(self):
        self.model.requires_grad_(True)


class Replace(Unfreeze):
    """Puts another layer in the place of one that trains."""

    def act(self):
        self.model.head = nn.Linear(4, 2)


class Prune(Unfreeze):
    """Prunes a layer, which renames its weight and adds a buffer."""

    def act(self):
        nn.utils.prune.l1_unstructured(self.model.head, "weight", 0.5)


class Stray(Unfreeze):
    """Adds a parameter that the model does not have."""

    def act(self):
        self.model.optimizer.torch_optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


class Refreeze(Unfreeze):
    """Freezes what was trained before."""

    def act(self):
        self.model.module.encoder.requires_grad_(False)
