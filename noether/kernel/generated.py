"""Define a function from generated source whose lines tracebacks and debuggers can show."""

from __future__ import annotations

import itertools
import linecache
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_number = itertools.count(1)


def define(name: str, lines: Sequence[str], namespace: Mapping[str, Any]) -> Callable[..., Any]:
    """Execute the source of one function and return it; its source is forgotten together with it."""
    filename = f"<noether {name} {next(_number)}>"
    source = "\n".join(lines) + "\n"
    scope = dict(namespace)
    exec(compile(source, filename, "exec"), scope)
    function: Callable[..., Any] = scope.pop(name)  # which would keep itself alive in there
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
    return function
