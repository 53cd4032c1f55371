"""From metric keys and paths in a spec to names that MLflow accepts.

MLflow takes letters, digits, `_`, `-`, `.`, space, `:` and `/`, at most 250 characters, written as a
normal relative path. The rules, which keep different keys different:

- `=` becomes `:`, so `ema=0.999/loss` is shown as `ema:0.999/loss`;
- a key with anything else that MLflow refuses, with a `:` of its own, or too long, gets `_` in those places
  and ends in `.x` and eight hex digits, a digest of the original.

The original key is always the one in `metrics.jsonl`.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from functools import lru_cache

MAX_NAME_LENGTH = 250

_PLAIN = re.compile(r"[/\w.\- =]*")
_REFUSED = re.compile(r"[^/\w.\- =]")
_MARK = re.compile(r"\.x[0-9a-f]{8}$")


@lru_cache(maxsize=65536)
def mlflow_name(key: str) -> str:
    """Return MLflow's name for `key`: the same in every process, different for different keys."""
    if _PLAIN.fullmatch(key) and _is_normal(key) and len(key) <= MAX_NAME_LENGTH and not _MARK.search(key):
        return key.replace("=", ":")
    digest = f".x{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    readable = _REFUSED.sub("_", key).replace("=", ":")
    parts = [part for part in readable.split("/") if part not in ("", ".", "..")]
    name = "/".join(parts)[: MAX_NAME_LENGTH - len(digest)] + digest
    return f"_{name[1:]}" if name.startswith("..") else name


def metric_key(name: str) -> str | None:
    """Return the key behind a name; None for one with a digest, whose key only `metrics.jsonl` knows."""
    return None if _MARK.search(name) else name.replace(":", "=")


def _is_normal(key: str) -> bool:
    """Whether the key is a path in the one spelling that MLflow takes."""
    return posixpath.normpath(key) == key and key != "." and not key.startswith(("..", "/"))
