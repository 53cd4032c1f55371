"""Methods whose names are so near to a hook's that they were meant to be one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from difflib import SequenceMatcher

from noether.kernel.hookspecs import HOOKS
from noether.kernel.place import place_of

# High, so that a helper such as `after_train_batch_stats` or `process_results` keeps its name. One wrong,
# missing, doubled or swapped letter in the shortest hook that people misspell (`after_epoch`) stays above it.
_SIMILARITY = 0.9


def near_misses(cls: type) -> Iterator[str]:
    """Yield a sentence for each public method of a user's class that almost has the name of a hook."""
    for owner in inspect.getmro(cls):
        if owner.__module__.partition(".")[0] in ("noether", "builtins", "torch"):
            continue
        for name, attribute in vars(owner).items():
            if name.startswith("_") or name in HOOKS or not _is_method(attribute):
                continue
            if (hook := _meant(name)) is not None:
                yield f"{owner.__qualname__}.{name} is no hook. Did you mean '{hook}'?{place_of(attribute)}"


def _meant(name: str) -> str | None:
    """Return the hook that a name is a misspelling of, or None."""
    plain = _plain(name)
    ratio, hook = max((SequenceMatcher(None, plain, _plain(hook)).ratio(), hook) for hook in HOOKS)
    return hook if ratio >= _SIMILARITY else None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _is_method(attribute: object) -> bool:
    return inspect.isroutine(attribute) or isinstance(attribute, (staticmethod, classmethod))
