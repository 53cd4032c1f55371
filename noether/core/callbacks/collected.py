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
    if not results:
        return None
    first = results[0]
    shapes = {_shape(result) for result in results}
    if len(shapes) > 1:
        found = ", ".join(sorted(shapes))
        raise TrainingError(f"process_data returned different things for different batches: {found}")
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(results)) if first.ndim else torch.stack(list(results))
    if isinstance(first, bool | int | float):
        floats = any(isinstance(result, float) for result in results)
        return torch.tensor(results, dtype=torch.float64 if floats else None)
    if isinstance(first, dict):
        return {key: put_together([result[key] for result in results]) for key in first}
    if isinstance(first, list | tuple):
        items = [put_together(item) for item in zip(*results, strict=True)]
        return type(first)(items) if isinstance(first, list) else tuple(items)
    raise TrainingError(
        f"process_data returned a {type(first).__name__}, which cannot be put together over batches",
        hint="return a tensor, a number, None, or a dict, list or tuple of these",
    )


def _shape(result: Any) -> str:
    """Name what has to be the same for all batches: the type, a dict's keys, the length of a list."""
    kind = "number" if isinstance(result, int | float) else type(result).__name__
    if isinstance(result, dict):
        return f"{kind} of {', '.join(sorted(map(repr, result)))}"
    return f"{kind} of {len(result)}" if isinstance(result, list | tuple) else kind
