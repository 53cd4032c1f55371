"""Facts that a checkpoint records beside the spec: values of the environment, code, versions and data files."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from noether.config.components import DatasetBaseConfig
from noether.kernel.entries import BUILT_IN, Component
from noether.kernel.participant import Participant
from noether.kernel.trust import ALWAYS_TRUSTED, lies_in_libraries
from noether.spec.errors.words import toml_path
from noether.spec.fields import components_in, configs_in
from noether.spec.model import RunSpec, dumped

SALT, VALUE, CODE, VERSION, DATA = "salt", "value ", "code ", "version ", "data "
_SAMPLED = 1 << 16  # bytes at the beginning and the end of a data file
_MOST_FILES = 1000  # of a folder of data


def facts_of(spec: RunSpec, plugins: Iterable[Participant], former: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the facts of a run that its resolved spec does not hold.

    - a salted digest of each value that the spec takes from the environment, and of no secret;
    - hashes of the source files of the project's own code that the spec names, and of those that it imports;
    - versions of the distributions of its components and plugins;
    - a salted digest of size, beginning and end of each data file, or of the first 1,000 files of a folder of data, or
      of the first 1,000 that a data set says it reads.

    Args:
        spec: The spec.
        plugins: Run plugins.
        former: Facts of an earlier attempt, whose salt is used again, or nothing could be compared.
    """
    salt = (former or {}).get(SALT) or secrets.token_hex(16)
    facts = {SALT: salt}
    for path, kept in spec._references.items():
        if not kept.reference.is_secret:
            facts[VALUE + toml_path(path)] = _salted(salt, json.dumps(kept.value, sort_keys=True).encode())
    parts: list[Component | Participant] = [component for _, component in components_in(spec)]
    for part in (*parts, *plugins):
        if part.distribution:
            facts[VERSION + part.distribution] = part.version
        else:
            code = part.target if isinstance(part, Component) else part.instance
            facts |= {CODE + name.partition("@")[0]: digest for name, digest in _sources(code).items()}
    facts.pop(VERSION + BUILT_IN, None)  # one of the versions of the environment
    own = dict(_own_files(spec))
    facts |= {DATA + place: _salted(salt, _sample_of_all(files)) for place, files in own.items()}
    tables = dumped(spec)
    drawn = tables.get("trainer", {}).get("sampling")
    for place, file in (*_files(tables.get("datasets"), "datasets"), *_files(drawn, "trainer.sampling")):
        if not place.startswith(tuple(f"{each}." for each in own)):
            facts[DATA + place] = _salted(salt, _sample_of(file))
    return facts


def data_samples(spec: RunSpec) -> dict[str, list[bytes]]:
    """Return size, beginning and end of the files of each data set, by its key."""
    own = [(place, _sample_of_all(files)) for place, files in _own_files(spec)]
    named = [(place, _sample_of(file)) for place, file in _files(dumped(spec).get("datasets"), "datasets")]
    found: dict[str, list[bytes]] = {}
    for place, sample in (*own, *named):
        found.setdefault(place.split(".")[1], []).append(sample)
    return found


def changed_facts(before: Mapping[str, str], now: Mapping[str, str], *kinds: str) -> list[str]:
    """Return the names of the facts of some kinds that both have, with different values."""
    return [
        name.removeprefix(kind)
        for kind in kinds
        for name in before.keys() & now.keys()
        if name.startswith(kind) and before[name] != now[name]
    ]


def code_changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each change of code, plugins and data."""
    return [
        *(f"the code of {name} changed" for name in sorted(changed_facts(before, now, CODE))),
        *(
            f"{name} {before[VERSION + name]} → {now[VERSION + name]}"
            for name in sorted(changed_facts(before, now, VERSION))
        ),
        *(f"the data of {name} changed" for name in sorted(changed_facts(before, now, DATA))),
    ]


def _salted(salt: str, value: bytes) -> str:
    return hmac.new(salt.encode(), value, "sha256").hexdigest()


def _sources(code: Any) -> dict[str, str]:
    """Return a hash of each source file of project code: the module of an object, and what that has of the project."""
    classes = code.__mro__ if isinstance(code, type) else (code,)
    names = [getattr(one, "__module__", None) or getattr(one, "__name__", "") for one in classes]
    found: dict[str, str] = {}
    is_own: dict[str, bool] = {}
    while names:
        module = sys.modules.get(str(names.pop()))
        file = getattr(module, "__file__", None)
        if module is None or file is None or module.__name__ in found:
            continue
        package = module.__name__.partition(".")[0]
        if package not in is_own:
            is_own[package] = not (
                package in ALWAYS_TRUSTED or package in sys.stdlib_module_names or lies_in_libraries(package)
            )
        if not is_own[package]:
            continue
        try:
            found[module.__name__] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        except OSError:
            continue
        for value in list(vars(module).values()):
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str):
                names.append(name)
    return found


def _files(table: Any, place: str) -> Iterator[tuple[str, Path]]:
    """Yield the files that the values of a table name, and folders that hold data as `disk` reads them."""
    if isinstance(table, dict):
        for key, value in table.items():
            yield from _files(value, f"{place}.{key}")
    elif isinstance(table, list):
        for number, value in enumerate(table):
            yield from _files(value, f"{place}[{number}]")
    elif isinstance(table, str) and Path(table).is_absolute():
        path = Path(table)
        if path.is_file() or path.suffix == ".zarr" or any(path.glob("*.npy")):
            yield place, path


def _own_files(spec: RunSpec) -> Iterator[tuple[str, Sequence[Path]]]:
    """Yield the files that data sets say they read, by the place of the data set."""
    from noether.data.fetch import usable

    for path, config in configs_in(spec.datasets, ("datasets",)):
        if isinstance(config, DatasetBaseConfig):
            with usable(str(path[1])):
                files = config.compared_files()
            if files is not None:
                yield ".".join(map(str, path)), files


def _sample_of_all(files: Sequence[Path]) -> bytes:
    first = files[:_MOST_FILES]
    return b"%d:" % len(files) + b"".join(file.name.encode() + _sample_of(file) for file in first)


def _sample_of(path: Path) -> bytes:
    """Return size, beginning and end of a file; of a folder, those of the arrays or of the chunks in it, with names."""
    if path.is_dir():
        files = islice(sorted(path.rglob("*") if path.suffix == ".zarr" else path.glob("*.npy")), _MOST_FILES)
        return b"".join(str(each.relative_to(path)).encode() + _sample_of(each) for each in files if each.is_file())
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SAMPLED))
            end = file.read(_SAMPLED)
            file.seek(0)
            return b"%d:" % size + file.read(_SAMPLED) + end
    except OSError:
        return b""
