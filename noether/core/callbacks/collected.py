"""Puts what the batches of a pass returned together, in the order of the data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from noether.errors import TrainingError


def put_together(results: Sequence[Any]) -> Any:
    """Return one result for all batches.

    Tensors are concatenated along their first dimension (scalars stacked), numbers become one tensor with an entry a
    batch, dicts, lists and tuples are put together item by item, and None stays None.

    Raises:
        TrainingError: A batch returned something else, or batches returned different things.
    """
    first = results[0]
    if first is None:
        return None
    if any(type(result) is not type(first) for result in results):
        kinds = sorted({type(result).__name__ for result in results})
        raise TrainingError(f"process_data returned different things for different batches: {', '.join(kinds)}")
    if isinstance(first, Tensor):
        return torch.cat(list(results)) if first.ndim else torch.stack(list(results))
    if isinstance(first, bool | int | float):
        return torch.tensor(results)
    if isinstance(first, dict):
        return {key: put_together([result[key] for result in results]) for key in first}
    if isinstance(first, list | tuple):
        items = [put_together(item) for item in zip(*results, strict=True)]
        return type(first)(items) if isinstance(first, list) else tuple(items)
    raise TrainingError(
        f"process_data returned a {type(first).__name__}, which cannot be put together over batches",
        hint="return a tensor, a number, None, or a dict, list or tuple of these",
    )
