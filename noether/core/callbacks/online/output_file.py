"""The outputs of an interval as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from noether.core.writers.durable import replace_file, storage_error
from noether.core.writers.tensor_file import encode_tensors


def write_outputs(path: Path, outputs: Mapping[str, Sequence[Tensor]]) -> None:
    """Write each output's tensors stacked by its name, or where shapes differ one by one as `name.0`, `name.1`, ….

    A file that is already there, from before a resume, is replaced at once.

    Args:
        path: The file; its folder is made.
        outputs: What each step brought, in order.

    Raises:
        StorageError: The disk refuses.
    """
    tensors: dict[str, Tensor] = {}
    for name, values in outputs.items():
        if len({value.shape for value in values}) == 1:
            tensors[name] = torch.stack(list(values))
        else:
            tensors |= {f"{name}.{step}": value for step, value in enumerate(values)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error
    replace_file(path, encode_tensors(tensors)[0])
