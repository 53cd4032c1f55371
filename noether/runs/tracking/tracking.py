"""The trackers of a run: fed while it trains, and built for the stores of the user who sends it later."""

from __future__ import annotations

import json
import logging
import shlex
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from noether.checkpoint.commit import always_own
from noether.checkpoint.paths import PathProvider
from noether.config.base import construct
from noether.config.components import SpecTable, TrackerBaseConfig
from noether.config.discriminated import Discriminated
from noether.config.secrets import remember_password_in
from noether.errors import NoetherError, UsageError, error_text
from noether.kernel.names import free_name
from noether.kernel.registry import Registry, active_registry
from noether.kernel.trust import run_folder_of
from noether.metrics.feed import TrackerFeed, feed_name, name_in_files, sync_command
from noether.metrics.spool import read_spool
from noether.metrics.tracker import BaseTracker, PackedModel, RunDescription, RunStatus, TrackerError
from noether.runs.saved_spec import read_saved_spec, validated_part
from noether.spec.read.layering import is_project_root, project_folder

if TYPE_CHECKING:
    from noether.metrics.log import LogWriter
    from noether.training.signals import StopSignals

_AFTER_A_SIGNAL_S = 5.0
_LOOK_EVERY_S = 0.02


def until_stopped(work: Callable[[], object], signals: StopSignals) -> bool:
    """Run slow clean-up on a thread; abandon it soon after a stop signal, and at once after a second one.

    Args:
        work: Clean-up that a run can do without; abandoned, it continues until the process ends.
        signals: Stop signals of the run.

    Returns:
        True if it is done.

    Raises:
        Exception: if `work` raised it.
    """
    raised: list[BaseException] = []

    def noting_errors() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=copy_context().run, args=(noting_errors,), name="clean-up", daemon=True)
    thread.start()
    stopped_at: float | None = None
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
        if signals.received is not None and stopped_at is None:
            stopped_at = time.monotonic()
        if signals.count > 1 or (stopped_at is not None and time.monotonic() - stopped_at > _AFTER_A_SIGNAL_S):
            break
    if raised:
        raise raised[0]
    return not thread.is_alive()


_LOG = logging.getLogger("noether.tracking")
_REQUIRED_PATIENCE_S = 30.0
_FLUSH_AFTER_A_SIGNAL_S = 5.0
"""Schedulers kill a process soon after they send it a signal."""


class Tracking:
    """Feeds the trackers of a run from its metrics file; one that wants no metrics is left alone.

    Args:
        trackers: The trackers of the spec.
        paths: Paths of the run.
        run: Description of the run for trackers.
        require_own: Raises `RunLostError` if the run is not that of this process any more.
        pack: Writes the trained model into an empty folder, for trackers that want it; None if there is none.
    """

    def __init__(
        self,
        trackers: Sequence[BaseTracker],
        paths: PathProvider,
        run: RunDescription,
        require_own: Callable[[], object] = always_own,
        pack: Callable[[Path], PackedModel] | None = None,
    ) -> None:
        self.paths = paths
        self._pack = pack
        self.feeds = [
            TrackerFeed(tracker, paths.metrics_path, run, name=name, require_own=require_own)
            for tracker, name in zip(trackers, tracker_names(map(feed_name, trackers)), strict=True)
            if tracker.wants_metrics
        ]

    def start(self) -> None:
        """Open all trackers in the background."""
        for feed in self.feeds:
            feed.start()

    def follow(self, log_writer: LogWriter) -> None:
        """Follow metrics and results of callbacks, and log the addresses of trackers once they are open.

        Training waits a few seconds for all trackers together.

        Raises:
            TrackerError: if a required tracker cannot be opened.
        """
        began = time.monotonic()
        for feed in self.feeds:
            patience = _REQUIRED_PATIENCE_S if feed.is_required else feed.tracker.patience_s
            if feed.wait_open(max(0.0, began + patience - time.monotonic())):
                _LOG.info("  %-9s %s", feed.name, feed.tracker.description)
            log_writer.on_written.append(feed.notify)

    def abandon(self) -> None:
        """Stop all deliveries: another process may work on the run now."""
        for feed in self.feeds:
            feed.abandon()

    def close(
        self, status: RunStatus, error: str | None, make_report: Callable[[], bytes | None] = lambda: None
    ) -> None:
        """Deliver the remaining metrics, end the run on the trackers, and log their addresses again.

        Every tracker has its `flush_timeout_s`, all at the same time. Ctrl-C ends the waiting and keeps the outcome.

        Args:
            status: The end of the run.
            error: Text of the error, for a run that failed.
            make_report: Makes the report, called if a tracker wants it.

        Raises:
            TrackerError: if the run finished and a tracker that is required, or is set wrongly, lacks something.
        """
        report = make_report() if any(feed.tracker.wants_report for feed in self.feeds) else None
        with TemporaryDirectory(prefix="noether-", ignore_cleanup_errors=True) as place:
            model = self._model(status, Path(place) / "model")
            for feed in self.feeds:
                feed.end(status, error, report, model)
            self._wait(status)

    def _model(self, status: RunStatus, folder: Path) -> PackedModel | None:
        """Pack the model of a finished run if a tracker wants it; it is left out with a warning if that fails."""
        if self._pack is None or status != "FINISHED" or not any(feed.tracker.wants_model for feed in self.feeds):
            return None
        return packed_or_none(self._pack, folder)

    def _wait(self, status: RunStatus) -> None:
        began = time.monotonic()
        for feed in self.feeds:
            try:
                feed.wait_closed(max(0.0, began + _flush_timeout(feed, status) - time.monotonic()))
            except KeyboardInterrupt:
                _LOG.warning("interrupted while waiting for the tracker %s", feed.name)
                began = float("-inf")
            if feed.has_everything:
                _LOG.info("  %-9s %s", feed.name, feed.tracker.description)
        lacking = [feed for feed in self.feeds if feed.is_required and not feed.has_everything]
        if lacking and status == "FINISHED":
            names = ", ".join(feed.name for feed in lacking)
            raise TrackerError(
                f"the run finished, but the tracker {names} lacks some of its metrics or results",
                hint=f"deliver the rest with: {sync_command(self.paths.run_path, lacking[0].tracker)}",
            )


def packed_or_none(pack: Callable[[Path], PackedModel], folder: Path) -> PackedModel | None:
    """Pack a model; warn and return None if it cannot be packed, for which no run fails."""
    folder.mkdir()
    try:
        return pack(folder)
    except Exception as error:  # code of plugins may raise anything
        text = error.message if isinstance(error, NoetherError) else error_text(error)
        hint = f" ({error.hint})" if isinstance(error, NoetherError) and error.hint else ""
        _LOG.warning("the model is not logged to trackers: %s%s", text, hint)
        return None


def tracker_names(wanted: Iterable[str]) -> list[str]:
    """Return a unique name for each tracker: `mlflow`, `mlflow-2`.

    Args:
        wanted: Their names or kinds, which may be equal.
    """
    names: list[str] = []
    for name in wanted:
        names.append(free_name(name_in_files(name), set(names)))
    return names


def _flush_timeout(feed: TrackerFeed, status: RunStatus) -> float:
    configured = feed.tracker.tracker_config.flush_timeout_s
    return min(configured, _FLUSH_AFTER_A_SIGNAL_S) if status == "KILLED" else configured


def flattened(tables: Mapping[str, Any]) -> dict[str, str]:
    """Return nested tables as one level of dotted keys with text values, the parameters of trackers."""
    flat: dict[str, str] = {}
    _flatten(tables, "", flat)
    return flat


def _flatten(value: Any, path: str, flat: dict[str, str]) -> None:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            _flatten(item, f"{path}.{key}" if path else str(key), flat)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            _flatten(item, f"{path}.{index}", flat)
    else:
        flat[path] = value if isinstance(value, str) else json.dumps(value)


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
