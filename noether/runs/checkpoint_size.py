"""How large the checkpoints of a run will be: one is encoded, as a save does it, and thrown away."""

from __future__ import annotations

import torch

from noether.checkpoint.save import SaveRequest
from noether.checkpoint.state import encode_checkpoint
from noether.core.models.base import ModelBase
from noether.runs.assemble import Run


@torch.no_grad()
def checkpoint_files(run: Run) -> tuple[dict[str, int], bool]:
    """Return the bytes of each file of a whole checkpoint, and whether the optimizer's state is in them.

    The model and its optimizer are those of a rehearsal: an update is made with gradients of zero, because optimizers
    have no state before their first.
    """
    complete = _has_state_after_an_update(run.model)
    request = SaveRequest()
    request.add_parts(weights=True, optimizer=True, model_names=None, frozen_weights=True)
    files, _ = encode_checkpoint(run.trainer.capture_state(run.model), request)
    return {name: len(data) for name, data in sorted(files.items())}, complete


def _has_state_after_an_update(model: ModelBase) -> bool:
    """Let every optimizer make its state; return whether all of them could."""
    for optimizer in model.optimizers().values():
        for parameter in optimizer.parameters:
            parameter.grad = torch.zeros_like(parameter)
        try:
            optimizer.torch_optimizer.step()
        except (RuntimeError, ValueError, TypeError):  # such as one that takes sparse gradients only
            return False
        finally:
            optimizer.zero_grad()
    return True
