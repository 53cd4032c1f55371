"""Random generators that belong to a data set or its transforms, beside those of the process."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from noether.data.randomness import mix

_PRIVATE = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
_NOT_SEARCHED = (type, ModuleType, torch.Tensor, np.ndarray, str, bytes, int, float)
_MOST_OBJECTS = 10_000  # bounds the search in a data set that holds its samples as Python objects


def private_generators(holder: object) -> list[Any]:
    """Return the random generators that an object holds: in attributes, containers and closures, or in its module.

    Copies of a generator in several workers would draw the same numbers for different samples.
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting = [holder]
    while waiting and len(seen) < _MOST_OBJECTS:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _NOT_SEARCHED):
            continue
        seen.add(id(value))
        if isinstance(value, _PRIVATE):
            found.append(value)
        else:
            waiting += _parts(value)
    return found


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(islice(value.values(), _MOST_OBJECTS))
    if isinstance(value, list | tuple):
        return list(value[:_MOST_OBJECTS])
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        return [*map(_content, value.__closure__ or ()), *_of_module(value.__globals__)]
    parts = list(getattr(value, "__dict__", {}).values())
    return parts + _of_module(vars(sys.modules.get(type(value).__module__, object)))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _of_module(names: Mapping[str, Any]) -> list[Any]:
    return [value for value in names.values() if isinstance(value, _PRIVATE)]


def seed_generators(generators: Sequence[Any], seed: int) -> None:
    """Put each generator at the start of its stream of a sample.

    Args:
        generators: The generators, as `private_generators` finds them.
        seed: Seed of the sample.
    """
    for place, generator in enumerate(generators):
        own = mix(seed, place)
        if isinstance(generator, np.random.Generator):
            bits = generator.bit_generator
            bits.state = type(bits)(own).state
        elif isinstance(generator, torch.Generator):
            generator.manual_seed(own)
        else:
            generator.seed(own if isinstance(generator, random.Random) else own & 0xFFFFFFFF)


@contextmanager
def preserved(generators: Sequence[Any]) -> Iterator[None]:
    """Restore generators at the end of the block, since other code may share them with a data set."""
    states = [_state(generator) for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            _restore(generator, state)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
