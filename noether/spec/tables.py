"""Tables of plugins: those that a spec has beside Noether's own, known if they are written or if their plugin is used.

A distribution registers a table in the group `noether.tables`; a run plugin that is not registered, such as a local
`noether_plugin.py`, has them in `TABLES`, a dict of classes by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError, WrapValidator, create_model

from noether.config.base import validation_of
from noether.errors import PluginError
from noether.kernel.entries import COMMAND, PLUGIN, TABLE, Component, Entry, canonical, is_dotted, matching
from noether.kernel.registry import LOCAL_PLUGIN, active_registry
from noether.kernel.roles import check_role
from noether.spec.errors.problem import CODES, Problem
from noether.spec.fields import components_in
from noether.spec.locate import TomlPath
from noether.spec.model import RunSpec
from noether.spec.read.layers import Origins

_ATTRIBUTE = "TABLES"


class _Claim(NamedTuple):
    """The claim of a plugin to a table.

    Attributes:
        origin: The plugin with its version, or its file.
        found: The registration, or the class in `TABLES`.
        plugin: The run plugin that has it in `TABLES`.
        path: Place of the name of its run plugin in the spec; empty without one.
    """

    origin: str
    found: Entry | Any
    plugin: Component | None = None
    path: TomlPath = ()

    def load(self, name: str) -> Component:
        """Import the class of the table, and check it."""
        if self.plugin is None:
            return active_registry().load(TABLE.name, self.found.qualified)._replace(kind=name)
        component = self.plugin._replace(role=TABLE.name, kind=name, target=self.found)
        check_role(TABLE, name, component)
        return component


def with_tables(
    written: Iterable[str], use: Sequence[str], more: Sequence[str] = ()
) -> tuple[type[RunSpec], list[Problem]]:
    """Return the class of a spec with the tables of its plugins, and the problems of those.

    Args:
        written: Keys of the spec; a key that is not Noether's own names the installed table of that name.
        use: Run plugins that the spec uses.
        more: Run plugins of the command line.

    Raises:
        PluginError: if a run plugin of the command line is unknown, or cannot be imported.
    """
    written = list(written)
    claims, problems = _claims(use, more)
    in_use = set(claims)
    for key in written:
        if key not in claims and key not in RunSpec.model_fields and (owners := installed_tables(key)):
            claims[key] = [_Claim(entry.origin, entry) for entry in owners]
    found: dict[str, Component] = {}
    for name, claimed in claims.items():
        last = claimed[-1]
        try:
            table = _the_one(name, claimed, in_use=name in in_use).load(name)
            if name not in written and (required := _required(table)):
                message = f"[{name}] is missing, which {last.origin} needs"
                hint = f"write [{name}] with {', '.join(required)}"
                problems.append(Problem("missing-key", last.path, message, hint))
            elif name not in written:
                _require_defaults(table)
            found[name] = table
        except PluginError as error:
            is_written = name in written and name not in RunSpec.model_fields
            problems.append(_problem(error, (name,) if is_written else last.path, last.origin))
    return class_with(found), problems


def _require_defaults(table: Component) -> None:
    """Check that a table that nobody writes is valid.

    Raises:
        PluginError: if its class refuses its own defaults.
    """
    try:
        with validation_of(table):
            table.target()
    except ValueError as error:
        reason = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        message = f"the defaults of [{table.kind}] are refused by its own class: {reason}"
        raise PluginError(
            message, hint=f"write [{table.kind}] with other values, or tell its authors", code="unusable-kind"
        ) from error


def _claims(use: Sequence[str], more: Sequence[str]) -> tuple[dict[str, list[_Claim]], list[Problem]]:
    """Return the claims of run plugins to tables, and the problems of run plugins of the spec."""
    claims: dict[str, list[_Claim]] = {}
    problems: list[Problem] = []
    for plugin in dict.fromkeys(name for name in [*use, *more] if isinstance(name, str)):
        path: TomlPath = ("plugins", "use", use.index(plugin)) if plugin in use else ()
        try:
            for table, claim in _tables_of(plugin):
                same = [one for one in claims.setdefault(table, []) if (one.origin, one.found) == claim[:2]]
                if not same:
                    claims[table].append(claim._replace(path=path))
        except PluginError as error:
            if not path:
                raise
            problems.append(_problem(error, path))
    return claims, problems


def installed_tables(name: str) -> list[Entry]:
    """Return the registrations of a table; nothing is imported."""
    return [entry for entry in active_registry().entries(TABLE.name) if entry.name == name]


def _tables_of(plugin: str) -> Iterator[tuple[str, _Claim]]:
    """Yield the tables of the distribution that registers a run plugin, or of its module if none does."""
    registry = active_registry()
    if plugin != LOCAL_PLUGIN and (not is_dotted(plugin) or matching(registry.entries(PLUGIN.name), plugin)):
        owner = registry.find(PLUGIN.name, plugin).distribution
        entries = (entry for entry in registry.entries(TABLE.name) if entry.distribution == owner)
        yield from ((entry.name, _Claim(entry.origin, entry)) for entry in entries)
        return
    component = registry.load(PLUGIN.name, plugin)
    tables = getattr(component.target, _ATTRIBUTE, {})
    if not isinstance(tables, dict):
        raise PluginError(
            f"wrong {_ATTRIBUTE} of run plugin '{plugin}': found {type(tables).__name__}, expected a dict of classes",
            code="unusable-kind",
        )
    yield from ((name, _Claim(component.origin, target, component)) for name, target in tables.items())


def _the_one(name: str, claims: list[_Claim], *, in_use: bool) -> _Claim:
    """Return the one claim to a table.

    Raises:
        PluginError: if there are more, or no plugin may have a table of this name.
    """
    if name in RunSpec.model_fields:
        raise PluginError(
            f"{claims[0].origin} has a table [{name}], which is Noether's own",
            hint="ask its author for another name, or do not use the plugin",
            code="ambiguous-kind",
        )
    if not can_be_table(name):
        raise PluginError(
            f"wrong name of a table: {claims[0].origin} has [{name}], expected a Python name that hooks can read as "
            f"spec.{name if name.isidentifier() else 'name'}, and that no method of a spec has",
            code="unusable-kind",
        )
    if len(claims) > 1:
        way = "use only one of them" if in_use else "name the run plugin of the one that you mean"
        raise PluginError(
            f"[{name}] is a table of {' and of '.join(claim.origin for claim in claims)}",
            hint=f"{way} in use of [plugins], or uninstall the other",
            code="ambiguous-kind",
        )
    return claims[0]


def can_be_table(name: str) -> bool:
    """Return True if a plugin may have a table of this name, an attribute of specs that nothing else is."""
    is_free = name not in RunSpec.model_fields and not hasattr(RunSpec, name)
    return is_free and name.isidentifier() and not name.startswith("_")


def _required(table: Component) -> list[str]:
    return [name for name, field in table.target.model_fields.items() if field.is_required()]


def _problem(error: PluginError, path: TomlPath, origin: str = "") -> Problem:
    named = "" if origin in error.message else f" (from {origin})"
    return Problem(
        error.code if error.code in CODES else "unusable-kind",
        path,
        error.message + named,
        error.hint,
        on_key=len(path) == 1,
    )


def class_with(tables: dict[str, Component]) -> type[RunSpec]:
    """Return the class of a spec with some tables of plugins; one that may be left out has its defaults then."""
    return _class_with(tuple(tables.items())) if tables else RunSpec


@cache
def _class_with(tables: tuple[tuple[str, Component], ...]) -> type[RunSpec]:
    fields: dict[str, Any] = {}
    for name, table in tables:
        purpose = (table.target.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
        description = f"{' '.join(purpose.split())} From {table.origin}."
        default: dict[str, Any] = {"default": None} if _required(table) else {"default_factory": table.target}
        annotation: Any = table.target
        guard = WrapValidator(partial(_checked, table))
        fields[name] = (Annotated[annotation, guard], Field(description=description, **default))
    made: type[RunSpec] = create_model("RunSpec", __base__=RunSpec, __module__=RunSpec.__module__, **fields)
    made.__doc__, made.plugin_tables = RunSpec.__doc__, dict(tables)
    return made


def _checked(table: Component, value: Any, handler: Callable[[Any], Any]) -> Any:
    with validation_of(table):
        return handler(value)


def kept_notes(spec: RunSpec, origins: Origins) -> Iterator[str]:
    """Yield a note for each changed option of a table whose plugin has configured the spec, which it does once."""
    if not spec._configured_by:
        return
    plugins = [active_registry().load(PLUGIN.name, name) for name in spec.plugins.use]
    configured = {plugin.origin: plugin.kind for plugin in plugins if plugin.kind in spec._configured_by}
    for name, table in spec.plugin_tables.items():
        for field in table.target.model_fields if table.origin in configured else ():
            sources = origins.of((name, field))
            if len(sources) > 1 and sources[0].value != sources[-1].value:
                yield (
                    f"{name}.{field}: {configured[table.origin]} is not asked again to configure the spec of this run; "
                    "what it made of the former value stays"
                )


def idle_notes(spec: RunSpec) -> Iterator[str]:
    """Yield a note for each table that nothing reads: its package has run plugins, and the run uses nothing of it."""
    registry = active_registry()
    used = {registry.load(PLUGIN.name, name).distribution for name in spec.plugins.use}
    used |= {component.distribution for _, component in components_in(spec) if component.role != TABLE.name}
    for name, table in spec.plugin_tables.items():
        owned = [entry for entry in registry.entries() if entry.distribution == table.distribution]
        plugins = [canonical(registry.entries(PLUGIN.name), entry) for entry in owned if entry.role == PLUGIN.name]
        if plugins and table.distribution not in used and all(entry.role != COMMAND.name for entry in owned):
            yield (
                f"[{name}] is a table of {table.origin}, of which the run uses nothing: for its run plugin write "
                f'use = ["{plugins[0]}"] in [plugins], or give -p {plugins[0]}'
            )


def hint_for_local_table(key: str, use: Any) -> str | None:
    """Return the way to the table of a `noether_plugin.py` that the spec does not use and that has its name."""
    file = active_registry().local_plugin
    if file is None or (isinstance(use, list) and LOCAL_PLUGIN in use):
        return None
    try:
        code = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if f'"{key}"' not in code and f"'{key}'" not in code:
        return None
    return f'if it is a table of {file}: write use = ["{LOCAL_PLUGIN}"] in [plugins], or give -p {LOCAL_PLUGIN}'


def all_installed(use: Sequence[str] = ()) -> tuple[type[RunSpec], dict[str, str]]:
    """Return the class of a spec with every installed table, and the reason against each one that cannot be used.

    Args:
        use: Run plugins whose tables it has as well, as a local `noether_plugin.py`.

    Raises:
        PluginError: if one of them is unknown, or cannot be imported.
    """
    found: dict[str, Component] = {}
    reasons: dict[str, str] = {}
    used, _ = _claims((), use)
    claims = {entry.name: installed_tables(entry.name) for entry in active_registry().entries(TABLE.name)}
    for name in sorted({*claims, *used}):
        try:
            of_name = used.get(name) or [_Claim(entry.origin, entry) for entry in claims[name]]
            found[name] = _the_one(name, of_name, in_use=name in used).load(name)
        except PluginError as error:
            reasons[name] = error.message.partition("\n")[0]
    return class_with(found), reasons
