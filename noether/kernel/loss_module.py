"""A loss of `torch.nn` asked for as a loss: which function to name in its place."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any

from noether.kernel.entry import Entry

_FUNCTIONS = "torch.nn.functional"
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=Loss$)")
_SPELLED_OUT = {
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "KLDivLoss": "kl_div",
    "MultiLabelMarginLoss": "multilabel_margin_loss",
    "MultiLabelSoftMarginLoss": "multilabel_soft_margin_loss",
}
"""Functions whose names do not follow from those of their classes."""


def is_module(found: Any) -> bool:
    """Whether something is a subclass of `torch.nn.Module`, which nothing is that was made without it."""
    module = getattr(sys.modules.get("torch.nn"), "Module", None)
    return module is not None and inspect.isclass(found) and issubclass(found, module)


def function_instead(module: type, entries: Iterable[Entry]) -> str:
    """Return what to name in place of a module: the function that it calls, by its kind if it has one."""
    functions = vars(sys.modules[_FUNCTIONS]) if _FUNCTIONS in sys.modules else {}
    snake = _WORD.sub("_", module.__name__).lower()
    names = (_SPELLED_OUT.get(module.__name__, ""), snake, snake.removesuffix("_loss"))
    name = next((name for name in names if name in functions and _takes_two(functions[name])), None)
    if name is None or not module.__module__.startswith("torch."):
        return "a loss is a function, not a module: def my_loss(input, target)"
    kinds = (entry.name for entry in entries if entry.target == f"{_FUNCTIONS}:{name}")
    kind = next(kinds, f"{_FUNCTIONS}.{name}")
    return f'a loss is a function, not a module: loss_fn = "{kind}"'


def _takes_two(function: Any) -> bool:
    try:
        inspect.signature(function).bind(input=None, target=None)
    except (TypeError, ValueError):
        return False
    return True
