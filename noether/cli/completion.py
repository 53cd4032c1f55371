"""Shell completion: runs, checkpoints, specs, paths of a spec, kinds; from names on disk alone, nothing is imported.

An error never shows: a shell that gets no candidates offers file names.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import typer

from noether.checkpoint.manifest import SPEC
from noether.checkpoint.untrusted import names_inside, parse_json, read_chosen, read_untrusted
from noether.kernel.entries import PLUGIN, ROLES, installed_entries

KEYS = "spec_keys.json"
"""File beside this module: the keys of every table of a spec, written by docs/generate.py."""
_SAFE = re.compile(r"[\w./+=@,\[\]][\w./+=@,\[\]-]*")  # a shell inserts or evaluates the words as they are
_BARE = re.compile(r"[\w-]+")  # a key that a path holds without quotes
_PLAIN_KIND = re.compile(r"[a-z][a-z0-9-]*")
_MARK = "run.json"
_MOST_FILES, _DEEPEST, _MOST_CHECKPOINTS, _MOST_BYTES = 3000, 4, 200, 1 << 20
_NO_SPECS = {"node_modules", "site-packages", "__pycache__", "pyproject.toml"}


class _Typed(NamedTuple):
    """The command line up to the word to complete: the values of its parameters by name, and the begun word."""

    values: dict[str, Any]
    begun: str


def candidates(of: str, context: typer.Context, begun: str) -> list[str]:
    """Return the words that may stand in place of a begun one; none if anything goes wrong.

    Args:
        of: A key of `_SOURCES`.
        context: The command line so far.
        begun: The begun word.
    """
    try:
        found = _SOURCES[of](_Typed(context.params, begun))
        return [word for word in found if word.startswith(begun) and _SAFE.fullmatch(word)]
    except Exception:
        return []


def _runs(typed: _Typed) -> list[str]:
    """Return the ids of the runs in the folder of runs."""
    output = Path(typed.values.get("output") or "runs")
    return sorted(entry.name for entry in os.scandir(output) if os.path.lexists(f"{entry.path}/{_MARK}"))


def _run_folder(typed: _Typed) -> Path:
    """Return the folder of the run that was named before."""
    run, output = str(typed.values["run"]), Path(typed.values.get("output") or "runs")
    return Path(run) if os.path.lexists(f"{run}/{_MARK}") else output / run


def _checkpoints(typed: _Typed) -> list[str]:
    """Return the names and positions of the checkpoints of a run."""
    run = _run_folder(typed)
    found: dict[str, None] = {}
    for name in sorted(names_inside(run, "checkpoints"), reverse=True)[:_MOST_CHECKPOINTS]:
        place = f"checkpoints/{name}/manifest.json"
        if not os.path.lexists(run / place):
            continue
        manifest = parse_json(read_untrusted(run, place, limit=_MOST_BYTES))
        position = "E{epoch}_U{update}_S{sample}".format(**manifest)
        found |= dict.fromkeys([position] if found else [position, "latest", *manifest["names"]])  # the newest has all
    return list(found)


def _specs(typed: _Typed) -> list[str]:
    """Return the TOML files below the folder of the begun word; those of run folders are left out."""
    folder = typed.begun.rpartition("/")[0]
    root = f"{folder}/" if folder or typed.begun.startswith("/") else ""
    return sorted(f"{root}{path}" for path in _toml_files(root or ".", "", [_MOST_FILES], _DEEPEST))


def _toml_files(root: str, below: str, left: list[int], depth: int) -> Iterator[str]:
    entries = list(os.scandir(os.path.join(root, below)))  # noqa: PTH118  # pathlib would drop the `./` that was typed
    left[0] -= len(entries)
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _NO_SPECS:
            continue
        if entry.name.endswith(".toml") and entry.is_file():
            yield below + entry.name
        elif depth and left[0] > 0 and entry.is_dir(follow_symlinks=False) and not _is_no_place_of_specs(entry.path):
            yield from _toml_files(root, f"{below}{entry.name}/", left, depth - 1)


def _is_no_place_of_specs(folder: str) -> bool:
    return any(os.path.lexists(f"{folder}/{mark}") for mark in (_MARK, "pyvenv.cfg"))


def _kinds(typed: _Typed) -> list[str]:
    """Return the kinds, of one role where `--role` names it."""
    role = typed.values.get("role")
    return sorted({entry.name for entry in installed_entries() if role in (None, entry.role) and entry.role in ROLES})


def _plugins(_: _Typed) -> list[str]:
    """Return the run plugins."""
    return sorted({entry.name for entry in installed_entries() if entry.role == PLUGIN.name})


def _roles(_: _Typed) -> list[str]:
    return [*ROLES, PLUGIN.name]


def _settings(typed: _Typed) -> list[str]:
    """Return paths with `=`, for `-s`; a single one also with its value, so that no shell adds a space after it."""
    tables = _tables(typed)
    paths = _next_parts(_paths(tables), typed.begun)
    if len(paths) == 1:
        return [f"{paths[0]}=", f"{paths[0]}={_shown(tables, paths[0])}"]
    return [path if path.endswith(".") else f"{path}=" for path in paths]


def _keys(typed: _Typed) -> list[str]:
    """Return the paths of values, for `--unset` and `spec explain`."""
    return _next_parts(_paths(_tables(typed)), typed.begun)


def _shown(tables: dict[str, Any], path: str) -> str:
    """Return the value that a plain path has in the spec, if a shell takes it as it is; else a placeholder."""
    value: Any = tables
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    spelt = value if isinstance(value, str) else json.dumps(value)
    return spelt if value is not None and _SAFE.fullmatch(spelt) else "VALUE"


def _next_parts(paths: Collection[str], begun: str) -> list[str]:
    """Return the paths that begin with a word, cut after the next dot that more than one of them has not in common."""
    known = sorted({path for path in paths if path.startswith(begun)})
    start = len(begun)
    while True:
        found = {path[: path.find(".", start) + 1] or path for path in known}
        if len(found) != 1 or not (only := found.pop()).endswith("."):
            return sorted(found or ({only} if known else ()))
        start = len(only)


def _tables(typed: _Typed) -> dict[str, Any]:
    """Return the tables of the spec or run on the command line; none if it cannot be read."""
    with suppress(Exception):
        if typed.values.get("spec"):
            return _read_toml(Path(typed.values["spec"]))
        if typed.values.get("run"):
            return _read_toml(_run_folder(typed) / SPEC)
    return {}


def _read_toml(path: Path, depth: int = 3) -> dict[str, Any]:
    """Return the tables of a file over those that it extends; keys count here, so lists of both are joined."""
    tables = tomllib.loads(read_chosen(path, limit=_MOST_BYTES).decode())
    extended: dict[str, Any] = {}
    for name in tables.pop("extends", ()) if depth else ():
        extended = _over(_read_toml(path.parent / name, depth - 1), extended)
    return {key: _over(tables[key], extended.get(key)) if key in tables else extended[key] for key in extended | tables}


def _over(upper: Any, lower: Any) -> Any:
    if isinstance(upper, dict) and isinstance(lower, dict):
        return lower | {key: _over(value, lower.get(key)) for key, value in upper.items()}
    return lower + upper if isinstance(upper, list) and isinstance(lower, list) else upper


def _paths(tables: dict[str, Any]) -> set[str]:
    """Return the dotted paths of a spec: of the keys that it has, and of those that its tables and kinds may have."""
    known = json.loads((files("noether.cli") / KEYS).read_text("utf-8"))
    return set(_below("", "spec", tables, known))


def _below(prefix: str, definition: str, table: Any, known: dict[str, dict[str, str]]) -> Iterator[str]:
    """Yield the paths below a table, whose keys a definition names; the value of a key is in turn a definition.

    `*model` is a component of a role, `[]…` a list, `{}…` a table with free keys, an empty text a plain value.
    """
    if definition.startswith("*"):
        kind = table.get("kind") if isinstance(table, dict) else table
        yield f"{prefix}kind"
        definition = f"{definition[1:]}.{kind}"
    keys = known.get(definition, {})
    held = table if isinstance(table, dict) else {}
    for key in filter(_BARE.fullmatch, dict.fromkeys([*keys, *held])):
        yield from _at(f"{prefix}{key}", keys.get(key, ""), held.get(key), known)


def _at(path: str, definition: str, value: Any, known: dict[str, dict[str, str]]) -> Iterator[str]:
    """Yield the paths of one key."""
    of_items = definition[2:] if definition[:2] in ("[]", "{}") else ""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for name, item in zip(_item_names(value), value, strict=True):
            yield from _below(f"{path}{name}.", of_items, item, known)
    elif definition.startswith("{}") and isinstance(value, dict):
        for key in filter(_BARE.fullmatch, value):
            yield from _below(f"{path}.{key}.", of_items, value[key], known)
    elif isinstance(value, dict) or (definition and definition[0] not in "*[{"):
        yield from _below(f"{path}.", definition, value, known)
    else:
        yield path


def _item_names(items: list[Any]) -> list[str]:
    """Return the name of each item in a path: its id in brackets, or its place if its id is not plain to see."""
    names: list[str] = []
    for place, item in enumerate(items):
        table = item if isinstance(item, dict) else {"kind": item}
        own = table.get("id", table.get("kind"))
        name = f"[{own}]"
        is_plain = isinstance(own, str) and ("id" in table or _PLAIN_KIND.fullmatch(own))
        names.append(name if is_plain and name not in names else f".{place}")
    return names


_SOURCES: dict[str, Callable[[_Typed], Collection[str]]] = {
    "runs": _runs,
    "checkpoints": _checkpoints,
    "specs": _specs,
    "kinds": _kinds,
    "plugins": _plugins,
    "roles": _roles,
    "settings": _settings,
    "keys": _keys,
}
