"""The user's own stores: where `noether tracker sync` may send a run, whatever its folder says."""

from __future__ import annotations

import json
import logging
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from noether.checkpoint.paths import PathProvider
from noether.config.base import construct
from noether.config.components import SpecTable, TrackerBaseConfig
from noether.config.discriminated import Discriminated
from noether.config.secrets import remember_password_in
from noether.errors import NoetherError, UsageError
from noether.kernel.registry import Registry, active_registry
from noether.kernel.trust import run_folder_of
from noether.metrics.spool import read_spool
from noether.metrics.tracker import BaseTracker
from noether.runs.saved_spec import read_saved_spec, validated_part
from noether.runs.tracking.tracking import tracker_names
from noether.spec.read.layering import is_project_root, project_folder

_LOG = logging.getLogger("noether.tracking")
_OF_EVERY_TRACKER = frozenset({"kind", *TrackerBaseConfig.model_fields})
_MOST_SPECS = 500
_LARGEST_SPEC = 1 << 20


class _Trackers(SpecTable):
    trackers: list[Annotated[Any, Discriminated("tracker")]] = Field(default_factory=list)


def sync_registry(paths: PathProvider, trusted: tuple[str, ...]) -> Registry:
    """Return the registry for a run folder: plugins and the code of the working folder, never what lies with the run.

    Neither the run folder nor the folder that holds it has code, unless that is the project itself.
    """
    here, holder = Path.cwd(), paths.output_path
    is_project = here.is_relative_to(holder) and (here != holder or is_project_root(here))
    return Registry.installed(trusted=trusted, project_folders=(here,), data_folders=() if is_project else (holder,))


@dataclass(frozen=True)
class OwnTrackers:
    """The trackers of a run, built for the user's own stores.

    Only kinds, titles and time limits are taken from the run folder. The store is that of `--store`, else that of a
    spec in the current project, else that of the environment or the default; a folder that names another one is
    refused.

    Attributes:
        paths: Paths of the run.
        store: Address that the user has given; None if none.
    """

    paths: PathProvider
    store: str | None

    def build(self) -> Iterator[tuple[str, BaseTracker]]:
        """Yield the name of each tracker and the tracker.

        Raises:
            UsageError: if the folder names another store, or options that only the user may give.
        """
        tables = [dict(table) for table in read_saved_spec(self.paths).tables.get("trackers", []) if _is_table(table)]
        for table, name in zip(tables, tracker_names([str(table["kind"]) for table in tables]), strict=True):
            yield name, self._tracker(table, name)

    def _tracker(self, table: dict[str, Any], name: str) -> BaseTracker:
        target = active_registry().load("tracker", str(table["kind"])).target
        if self.store is None and table in self._project_tables:
            return self._built(table)
        field, portable = target.address_field, _OF_EVERY_TRACKER | target.portable_fields
        taken = {key: value for key, value in table.items() if key in portable and not isinstance(value, dict)}
        left = {key for key, value in table.items() if key not in taken and key != field}
        named = table.get(field) if field else None
        if field is None:
            if self.store is not None:
                _LOG.warning("%s: --store is not used: a tracker of this kind has no address", name)
            plain = self._config(taken)
            if left := {key for key in left if table[key] != getattr(plain, key, None)}:
                wanted = self._config(table)  # the project's table leaves defaults out
                same = (own for own in self._built_of_project(str(table["kind"])) if own.tracker_config == wanted)
                if (own := next(same, None)) is None:
                    raise self._foreign_options(name, left)
                return own
            return self._built(taken)
        if left := {key for key in left if table[key] not in (None, {}, True, False)}:
            _LOG.warning("%s: options of the run folder are not used: %s", name, ", ".join(sorted(left)))
        return self._at_own_store(taken, field, named, name)

    def _at_own_store(self, taken: dict[str, Any], field: str, named: Any, name: str) -> BaseTracker:
        """Build a tracker for the user's store; refuse if the folder names another one."""
        if self.store is not None:
            remember_password_in(self.store)
            return self._built(taken | {field: self.store})
        own = self._built(taken)
        addresses = {tracker.address: tracker for tracker in (*self._built_of_project(str(taken["kind"])), own)}
        if isinstance(named, dict):
            raise self._foreign(name, f"{field} = {json.dumps(named)}", own, "URI")
        kept = read_spool(self.paths.spool_path / f"{name}.json").reference.get("store")
        wanted = self._built(taken | {field: named}).address if named else kept
        for address in (kept, wanted):
            if address is not None and address not in addresses:
                raise self._foreign(name, address, own, shlex.quote(address) if address.isprintable() else "URI")
        return addresses[wanted or kept or own.address]

    def _foreign(self, name: str, found: str, own: BaseTracker, argument: str) -> UsageError:
        return UsageError(
            f"the run folder names a store of its own for {name}: found {found!r}, expected yours, {own.address!r}",
            hint="a run folder may come from a stranger; to send the run there all the same: "
            f"noether tracker sync {shlex.quote(str(self.paths.run_path))} --store {argument}",
        )

    def _foreign_options(self, name: str, options: set[str]) -> UsageError:
        return UsageError(
            f"the run folder has options for {name} that may name a place: found {', '.join(sorted(options))}",
            hint="stand in a project whose spec has the same [[trackers]] table",
        )

    def _built(self, table: Mapping[str, Any]) -> BaseTracker:
        made: BaseTracker = construct(self._config(table))
        return made

    def _config(self, table: Mapping[str, Any]) -> TrackerBaseConfig:
        found = validated_part({"trackers": [dict(table)]}, _Trackers, str(self.paths.resolved_spec_path))
        config: TrackerBaseConfig = found.trackers[0]
        return config

    @cached_property
    def _project_tables(self) -> list[dict[str, Any]]:
        return [table for spec in self._project_specs() for table in _tracker_tables(spec)]

    def _built_of_project(self, kind: str) -> Iterator[BaseTracker]:
        """Build the trackers of this kind that specs of the project name."""
        for table in self._project_tables:
            try:
                if table.get("kind") == kind:
                    yield self._built(table)
            except NoetherError:  # such as a variable that is not set
                continue

    def _project_specs(self) -> Iterator[Path]:
        """Yield the specs of the current project; a run folder holds none."""
        here = Path.cwd()
        if here.is_relative_to(self.paths.run_path):
            return
        project = project_folder(here)
        if project == self.paths.output_path and not is_project_root(project):
            return
        places = [(top, pattern) for top in (project, here) for pattern in ("*.toml", "specs/**/*.toml")]
        for path in islice(dict.fromkeys(path for top, pattern in places for path in top.glob(pattern)), _MOST_SPECS):
            if run_folder_of(path) is None:
                yield path


def _is_table(table: Any) -> bool:
    return isinstance(table, dict) and isinstance(table.get("kind"), str)


def _tracker_tables(spec: Path) -> list[dict[str, Any]]:
    try:
        if spec.stat().st_size > _LARGEST_SPEC:
            return []
        tables = tomllib.loads(spec.read_text("utf-8")).get("trackers", [])
    except (OSError, ValueError, RecursionError):
        return []
    return [table for table in tables if _is_table(table)] if isinstance(tables, list) else []
