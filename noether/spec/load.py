"""From files, overrides and installed components to a validated `RunSpec`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from noether.config.base import _RegistryBase, component_of, names_component
from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import beside_config
from noether.config.parameters import label
from noether.config.secrets import KeptReference, Reference, withheld
from noether.config.signature import SignatureConfig
from noether.errors import SpecError
from noether.kernel.names import free_name
from noether.kernel.registry import LOCAL_PLUGIN, Registry, kind_of, use_registry
from noether.kernel.trust import calling_package, is_path, run_folder_of
from noether.spec.checks import check, id_notes, meaning_problems
from noether.spec.errors.problem import MAX_PROBLEMS, InvalidSpecError, Problem
from noether.spec.errors.translate import problems_of
from noether.spec.errors.words import toml_path
from noether.spec.fields import components_in, configs_in, item_at, item_ids
from noether.spec.locate import TomlPath
from noether.spec.model import RunSpec, dumped
from noether.spec.read.document import MAX_DEPTH, not_numbers_in
from noether.spec.read.environment import Readings, concealed, passwords_in, read_environment, secrets_in
from noether.spec.read.layering import THE_SPEC, layered, located, override, project_folder, tidy
from noether.spec.read.layers import Node, Origins, value_of
from noether.spec.read.overrides import Unset
from noether.spec.tables import idle_notes, kept_notes, with_tables


def complete(
    spec: RunSpec, origins: Origins, folder: Path, references: Mapping[TomlPath, Reference] | None = None
) -> None:
    """Fill in callback ids, make input paths absolute and keep references to the environment, in place.

    Args:
        spec: A validated spec.
        origins: Sources of its values. A path is relative to the folder of its file; a path from the command line,
            Python or the environment to the working folder.
        folder: Folder of the spec file, which default paths are relative to.
        references: References to the environment that were read, by path.
    """
    references = references or {}

    def start_of(path: TomlPath) -> Path:
        if any(path[:end] in references and references[path[:end]].text() is not None for end in range(len(path) + 1)):
            return Path.cwd()
        sources = origins.of(path)
        return sources[0].layer.folder if sources else folder

    siblings: dict[TomlPath, list[CallBackBaseConfig]] = {}
    moved: list[TomlPath] = []
    own: list[tuple[TomlPath, BaseModel]] = [((name,), getattr(spec, name)) for name in spec.plugin_tables]
    for path, config in [*own, *configs_in(spec)]:
        if isinstance(config, CallBackBaseConfig):
            siblings.setdefault(path[:-1], []).append(config)
        for field in type(config).model_fields:
            paths = _Paths(start_of, text_too=field in getattr(config, "path_fields", ()))
            value = paths.absolute(getattr(config, field), (*path, field))
            if paths.moved:
                setattr(config, field, value)
                moved += paths.moved
    kept = {
        path: _settled(path, reference, origins) if any(at[: len(path)] == path for at in moved) else reference
        for path, reference in references.items()
    }
    for callbacks in siblings.values():
        tables = [{"id": config.id, "kind": config.kind} for config in callbacks]
        for config, name in zip(callbacks, item_ids(tables, "callback"), strict=True):
            config.id = name
    _keep(spec, kept)


class _Paths:
    """Makes the paths in a value absolute.

    Args:
        start_of: Returns the folder that the path at a place of the spec is relative to.
        text_too: True if text is a path as well, unless it is a URL.

    Attributes:
        moved: The places of the paths.
    """

    def __init__(self, start_of: Callable[[TomlPath], Path], *, text_too: bool) -> None:
        self._start_of = start_of
        self._text_too = text_too
        self.moved: list[TomlPath] = []

    def absolute(self, value: Any, path: TomlPath) -> Any:
        """Return a value of the same type with absolute paths; configs in it are left alone."""
        if isinstance(value, Path) or (self._text_too and isinstance(value, str) and "://" not in value):
            self.moved.append(path)
            return type(value)(self._start_of(path) / _without_tilde(Path(value)))
        before = len(self.moved)
        changed = self._below(value, path)
        return changed if len(self.moved) > before else value

    def _below(self, value: Any, path: TomlPath) -> Any:
        if isinstance(value, (list, tuple)):
            items = [self.absolute(item, (*path, index)) for index, item in enumerate(value)]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, (set, frozenset, deque)):
            return type(value)(self.absolute(item, path) for item in value)
        if isinstance(value, dict):
            return copy(value) | {key: self.absolute(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, BaseModel) and not isinstance(value, _RegistryBase):
            return value.model_copy(update=self._fields(value, type(value).model_fields, path))
        if is_dataclass(value) and not isinstance(value, type):
            changed = copy(value)
            for name, item in self._fields(value, [field.name for field in fields(value)], path).items():
                object.__setattr__(changed, name, item)  # it may be frozen
            return changed
        return value

    def _fields(self, value: Any, names: Iterable[str], path: TomlPath) -> dict[str, Any]:
        return {name: self.absolute(getattr(value, name), (*path, name)) for name in names if hasattr(value, name)}


def _without_tilde(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # no user has this name
        return path


def _settled(path: TomlPath, reference: Reference, origins: Origins) -> Reference:
    """Return a reference whose default path no longer depends on the folder of its file."""
    if "default" not in reference.table:
        return reference
    folder = origins.of(path)[0].layer.folder
    default = _Paths(lambda _: folder, text_too=True).absolute(reference.table["default"], path)
    return Reference(reference.table | {"default": default})


def _keep(spec: RunSpec, references: Mapping[TomlPath, Reference]) -> None:
    """Make dumps of the spec write references in place of their values."""
    if not references:
        return
    tables = dumped(spec)
    for path, reference in references.items():
        value: Any = tables
        for part in path:
            value = item_at(value, part)
        spec._references[path] = KeptReference(reference, value)


@dataclass(frozen=True)
class LoadedSpec:
    """A valid spec and its sources.

    Attributes:
        spec: The validated spec.
        source_text: The TOML text of the spec, without the files that it extends and without overrides.
        path: The file; None for a spec from Python.
        project_folder: The root of the project, whose code dotted kinds may name.
        registry: The registry that resolved the kinds; keep it active (`use_registry`) while building the run.
        origins: Sources of every value.
        document: The merged layers, without defaults of fields.
        notes: Remarks on ids that may surprise.
    """

    spec: RunSpec
    source_text: str
    path: Path | None
    project_folder: Path
    registry: Registry
    origins: Origins
    document: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Name of the spec in messages: its file, or `the spec`."""
        return str(self.path) if self.path else THE_SPEC


def load_spec(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    set: Mapping[str, Any] | None = None,
    *,
    unset: Sequence[str] = (),
    trust: Iterable[str] = (),
    registry: Registry | None = None,
    plugins: Sequence[str] = (),
    project: Path | None = None,
) -> LoadedSpec:
    """Load and validate a spec.

    Args:
        source: A file, or a dict of the same tables.
        overrides: Arguments of `-s`, `path=value` or `path+=value`, and `Unset` paths; a later one wins.
        set: Overrides with Python values by dotted path, applied after those; None removes a key.
        unset: Paths to remove before any override.
        trust: Top-level packages that dotted kinds may import, in addition to the project's; and paths, which have a
            separator, of files and folders outside of the project that specs may extend. What Python code writes
            into `source` or `set` may also name its own package, `__main__` too, and be a class or function.
        registry: Registry that resolves kinds; by default everything installed.
        plugins: Run plugins in addition to those of the spec; they may log metrics that callbacks read.
        project: Folder of code that dotted kinds may import, in addition to the working folder; by default the
            project of the spec.

    Raises:
        SpecError: if the file cannot be read; as `InvalidSpecError` with all problems if the spec or an override
            is invalid.
    """
    author = calling_package()
    objects: dict[str, Any] = {}
    if isinstance(source, (str, Path)):
        _require_inside(Path(source))
        folder = tidy(Path(source).parent.absolute())
    else:
        source, folder = named_objects(source, objects, author), Path.cwd()
    set = named_objects(set or {}, objects, author)
    trust = list(trust)
    run = run_folder_of(folder)
    project = project or (project_folder(folder) if run is None else _project_of_user(run))
    readable = [project, *([folder] if run else []), *map(Path, filter(is_path, trust))]
    root, text, path = layered(source, readable)
    origin = str(path) if path else THE_SPEC
    registry = registry or Registry.installed(
        trusted=trust,
        project_folders=(project, Path.cwd()),
        plugin_folders=_plugin_folders(root, folder, project),
        written_in_python=objects,
    )
    with use_registry(registry):
        problems = override(root, [*map(Unset, unset), *overrides], set, path)
        origins = Origins(root)
        spec, readings = _validated(root, origins, problems, origin, plugins)
        complete(spec, origins, folder, readings.references)
        if wrong := meaning_problems(spec, plugins=plugins):
            raise InvalidSpecError(located(concealed(wrong, readings.references), origins), origin=origin)
        notes = tuple(map(withheld, _notes(spec, origins, readings.table)))
    return LoadedSpec(spec, text, path, project, registry, origins, readings.table, notes)


def _notes(spec: RunSpec, origins: Origins, table: dict[str, Any]) -> Iterator[str]:
    yield from (*id_notes(table), *option_notes(spec), *kept_notes(spec, origins), *idle_notes(spec))


def _plugin_folders(root: Node, folder: Path, project: Path) -> Iterator[Path]:
    """Yield the folders in which `noether_plugin.py` is looked for.

    Those of the file that uses it, of the spec, of the project of a run that used it (its place there is in the
    resolved spec), and the working folder.
    """
    yield from (source.layer.folder for source in Origins(root).of(("plugins", "use"))[:1])
    yield folder
    resolved = value_of(root).get("resolved")
    kinds = resolved.get("kinds") if isinstance(resolved, dict) else None
    for origin in kinds.values() if isinstance(kinds, dict) else ():
        if isinstance(origin, str) and origin.startswith(f"{LOCAL_PLUGIN} from "):
            yield (project / origin.removeprefix(f"{LOCAL_PLUGIN} from ")).parent
    yield Path.cwd()


def _configured_by(root: Node) -> list[str]:
    """Return the run plugins that have configured a resolved spec."""
    resolved = value_of(root).get("resolved")
    names = resolved.get("configured_by") if isinstance(resolved, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


_COMPONENTS = {"kind", "model", "trainer", "loss_fn", "optimizer", "schedule", "weight_decay_schedule", "initializer"}
_TABLES_OF_COMPONENTS = {"datasets", "transforms", "callbacks", "eval_callbacks", "trackers"}


def named_objects(value: Any, objects: dict[str, Any], author: str | None, key: str = "", depth: int = 0) -> Any:
    """Return a value from Python with the kind of each class and function in its place.

    Args:
        value: The value.
        objects: Dict to which the objects are added by kind, and with None each kind that names code of the author.
        author: Top-level package of the code that wrote the value.
        key: Key of the value; an object stands for a kind only where a component belongs.
        depth: Number of tables and lists around the value.
    """
    if depth > MAX_DEPTH:  # refused later
        return value
    last = key.rpartition(".")[2]
    if isinstance(value, Mapping):
        keys = dict.fromkeys(value, key) if last in _TABLES_OF_COMPONENTS and "kind" not in value else {}
        return {
            name: named_objects(item, objects, author, keys.get(name, str(name)), depth + 1)
            for name, item in value.items()
        }
    if type(value) in (list, tuple):
        return [named_objects(item, objects, author, key, depth + 1) for item in value]
    if isinstance(value, BaseModel):
        found = (component for _, component in components_in(value) if component.entry is None)
        objects |= {component.kind: component.target for component in found}
    elif isinstance(value, str) and author is not None and value.startswith((f"{author}.", f"{author}:")):
        objects.setdefault(value, None)
    elif callable(value) and (last in _COMPONENTS or last in _TABLES_OF_COMPONENTS):
        same = (kind for kind, known in objects.items() if known is value)
        kind = next(same, None) or free_name(kind_of(value), [kind for kind, known in objects.items() if known])
        objects[kind] = value
        return kind
    return value


def option_notes(spec: RunSpec) -> Iterator[str]:
    """Yield a note for each parameter of code of the user that a spec cannot give, and for each unchecked option."""
    for path, config in configs_in(spec):
        if not names_component(config) or component_of(config).entry is not None:
            continue
        target = component_of(config).target
        of = label(target)
        if not isinstance(config, SignatureConfig):
            for name in beside_config(target, config.role):
                yield f"{toml_path(path)}: the parameter '{name}' of {of} keeps its default: it is not in the config"
            continue
        for name, reason in config.left_out.items():
            yield f"{toml_path(path)}: the parameter '{name}' of {of} keeps its default: {reason}"
        for name in config.model_extra or ():
            yield f"{toml_path((*path, name))}: not checked, passed on in the **keywords of {of}"


def _validated(
    root: Node, origins: Origins, problems: list[Problem], origin: str, plugins: Sequence[str]
) -> tuple[RunSpec, Readings]:
    """Return the validated spec, or raise all problems together."""
    use = item_at(item_at(read_environment(root, RunSpec).table, "plugins"), "use")
    spec_class, wrong = with_tables(root.content, use if isinstance(use, list) else (), plugins)
    readings = read_environment(root, spec_class)
    table = readings.table
    problems = [*problems, *wrong, *readings.problems, *passwords_in(table, readings.references)]
    found: list[Problem] = []
    more = 0
    spec: RunSpec | None = None
    try:
        spec = spec_class.model_validate_json(json.dumps(table), strict=True)
        problems += secrets_in(spec, readings.references)
    except ValidationError as error:
        found, more = problems_of(error, table, spec_class)
        found = [problem for problem in found if not _follows(problem, wrong, table)]
    if not more:
        checked = list(islice(check(table), MAX_PROBLEMS))
        same = {(problem.path, problem.message) for problem in checked}
        found = [*(problem for problem in found if (problem.path, problem.message) not in same), *checked]
    reported = {problem.path[:length] for problem in found for length in range(1, len(problem.path) + 1)}
    found += islice((nan for nan in not_numbers_in(table) if nan.path not in reported), MAX_PROBLEMS)
    unread = {problem.path for problem in readings.problems}
    problems += concealed((problem for problem in found if problem.path not in unread), readings.references)
    if spec is None or problems:  # outside of the handler: pydantic's error may hold a part of a secret
        more += max(0, len(problems) - MAX_PROBLEMS)
        raise InvalidSpecError(located(problems[:MAX_PROBLEMS], origins), origin=origin, more=more)
    spec.plugins.use = list(dict.fromkeys([*spec.plugins.use, *plugins]))
    spec._configured_by = _configured_by(root)
    return spec, readings


def _follows(problem: Problem, wrong: Sequence[Problem], table: dict[str, Any]) -> bool:
    """Return True if a problem is of a table whose plugin has a problem, or may be of one that cannot be read."""
    if any(problem.path == one.path for one in wrong):
        return True
    is_unread = any(one.path[:2] == ("plugins", "use") and one.code != "missing-key" for one in wrong)
    is_table = problem.code == "unknown-key" and isinstance(table.get(str(problem.path[0])), dict)
    return is_unread and is_table and len(problem.path) == 1 and not problem.meant


def _require_inside(path: Path) -> None:
    """Check that a spec in a run folder is a file of that folder.

    A run folder, and the folders above it, may come from a stranger: dotted kinds of its specs name code of the project
    of the working folder, and a link would show lines of another file in messages.

    Raises:
        SpecError: if it is a link, or a link leads out of the run folder.
    """
    try:
        run, folder, real = run_folder_of(path.parent), path.parent.resolve(), path.resolve()
    except (OSError, ValueError, RuntimeError):  # reading it reports the problem
        return
    if run is not None and (real != folder / path.name or not real.is_relative_to(run.resolve())):
        raise SpecError(
            f"{path} leads out of the run folder: found a link to {real}",
            hint="copy the file itself into the run folder",
            code="unreadable-file",
        )


def _project_of_user(run: Path) -> Path:
    """Return the project of the working folder; the run itself, which has no code, if that is in a run folder."""
    standing = Path.cwd()
    return run if run_folder_of(standing) is not None else project_folder(standing)
