"""`noether plugins doctor`: the status of each installed plugin, by its metadata and by an import in a process."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import import_module
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from noether.cli.output import print_table, say
from noether.errors import PluginError, UsageError, error_text
from noether.kernel.entries import (
    PLUGIN,
    ROLE_OF,
    ROLES,
    Entry,
    installed_entries,
    matching,
    normal,
    unmet,
    unreadable_distributions,
    way_out,
)
from noether.kernel.names import did_you_mean

Report = dict[str, Any]
_CHILD = (
    "import json, sys; job = json.loads(sys.argv[1]); sys.path[:] = job['path']; "
    "from noether.cli.doctor import probe; probe(job)"
)
_NAME = re.compile(r"[\w-]+")
_TARGET = re.compile(r"[\w.]+(:[\w.]+)?")
_PLACE = re.compile(r"\(.+:\d+\)$")
_STATEFUL = ("numpy", "torch")
"""Modules with state of the process that a plugin may change; imported first if the plugin imports them anyway."""
_PRINTS = "prints to standard output on import, where other programs read the output of commands"


def examine(name: str | None, limit: float) -> list[Report]:
    """Import the plugins, and return a report of each.

    Args:
        name: A distribution, with or without its prefix, or one of its kinds; None for all.
        limit: Seconds after which the process of an import is killed.

    Raises:
        UsageError: if no plugin has this name.
    """
    entries = [entry for entry in installed_entries() if not entry.is_built_in]
    by_origin = {origin: list(group) for origin, group in groupby(sorted(entries, key=_origin), key=_origin)}
    damaged = {} if name else unreadable_distributions()
    if name is not None:
        wanted = {origin: group for origin, group in by_origin.items() if normal(name) in _names(group)}
        if not wanted:
            known = {one for group in by_origin.values() for one in _names(group)}
            hint = "see the installed ones: noether plugins list"
            raise UsageError(f"no plugin is named '{name}'.{did_you_mean(name, known)}", hint=hint)
        by_origin = wanted
    reports = [_examined(group, limit) for group in by_origin.values()]
    unread = [
        _report(origin, problems=[f"its entry points cannot be read: {error}"]) for origin, error in damaged.items()
    ]
    return [*reports, *unread]


def print_reports(reports: Sequence[Report]) -> None:
    """Print a table, and the problems and notes of each plugin below it."""
    if not reports:
        say("no plugin is installed beside Noether")
        return
    print_table([_row(report) for report in reports])
    for report in reports:
        if report["problems"] or report["notes"]:
            say(f"\n{report['origin']}")
        for problem in report["problems"]:
            say(f"  error: {problem}")
        for note in report["notes"]:
            say(f"  note: {note}")
        if report["problems"]:
            say(f"  help: {way_out(report['origin'].rpartition(' ')[0])}")


def _row(report: Report) -> dict[str, object]:
    def shown(value: object) -> object:
        return "unknown" if value is None else value

    torch = {None: "unknown", True: "imports it", False: "no"}[report["imports_torch"]]
    return {
        "plugin": report["origin"],
        "status": "wrong" if report["problems"] else "ok",
        "seconds": shown(report["seconds"]),
        "MiB": shown(report["memory_mib"]),
        "torch": torch,
    }


def _origin(entry: Entry) -> str:
    return entry.origin


def _names(entries: Sequence[Entry]) -> set[str]:
    return {name for one in entries for name in (normal(one.distribution), one.package, one.normal_name, one.qualified)}


def _report(origin: str, **facts: Any) -> Report:
    """Return a report; what is not known is None."""
    empty: Report = {"origin": origin, "seconds": None, "memory_mib": None, "imports_torch": None}
    return {**empty, "problems": [], "notes": [], **facts}


def _examined(entries: Sequence[Entry], limit: float) -> Report:
    problems = [*_of_metadata(entries)]
    facts = _probed(entries, limit)
    if again := facts.pop("again", ()):  # its state can only be compared if it was there before
        second = _probed(entries, limit, again)
        facts |= {key: second[key] for key in ("problems", "notes") if key in second}
    problems += facts.pop("problems")
    return _report(entries[0].origin, **facts, problems=list(dict.fromkeys(problems)))


def _of_metadata(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the defects that are known without an import: versions and names."""
    everything = installed_entries()
    for entry in entries:
        status, note = standing(entry, [one for one in everything if one.role == entry.role])
        if status in ("too old", "too new"):
            yield note
        elif status != "ok":
            yield f"{ROLE_OF[entry.role].named(entry.name)}: {note}"


def standing(entry: Entry, of_role: Sequence[Entry]) -> tuple[str, str]:
    """Return the status of a registration, and what to do if it is not `ok`; imports nothing.

    Args:
        entry: The registration.
        of_role: All registrations of its role.
    """
    from noether.cli.main import BUILT_IN_VERBS

    if entry.is_built_in:
        return "ok", ""
    if not _NAME.fullmatch(entry.name) or not _TARGET.fullmatch(entry.target):
        found = f"{entry.name} = {entry.target}"
        return "invalid", f"found {found!r}, expected NAME = module:Attr: {way_out(entry.distribution)}"
    if (wrong := unmet(entry.distribution, entry.needs)) is not None:
        status = "too old" if wrong.is_old else "too new"
        return status, f"needs {wrong.requirement}, found {wrong.found}: {wrong.remedy}"
    claims = matching(of_role, entry.name)
    if claims[0].is_built_in or (entry.role == "command" and entry.name in BUILT_IN_VERBS):
        return "shadowed", f"'{entry.name}' is built in: write {entry.qualified}"
    others = {claim.origin for claim in claims if claim.target != entry.target or claim.package != entry.package}
    if others - {entry.origin}:
        return "conflict", f"also of {', '.join(sorted(others - {entry.origin}))}: write {entry.qualified}"
    return ("conflict", f"twice in {entry.origin}: {way_out(entry.distribution)}") if others else ("ok", "")


def _probed(entries: Sequence[Entry], limit: float, preload: Sequence[str] = ()) -> Report:
    """Import the targets of entries in a process of their own, and return its report."""
    with TemporaryDirectory(prefix="noether-") as folder:
        report, out, err = (Path(folder, name) for name in ("report.json", "out", "err"))
        job = {"path": sys.path, "entries": [asdict(entry) for entry in entries], "preload": preload}
        command = [sys.executable, "-c", _CHILD, json.dumps(job | {"report": str(report)})]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                return {"problems": [f"its import takes longer than {limit:g} s"]}
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)  # with what it started
                    child.wait()
        if (found := _read(report)) is not None:
            if out.stat().st_size:
                found["problems"].append(_PRINTS)
            return found
        said = err.read_text("utf-8", "replace").strip().splitlines()
        ended = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        return {"problems": [f"its import ends the process {ended}{f': {said[-1]}' if said else ''}"]}


def _read(path: Path) -> Report | None:
    """Return the report of a process, in which a plugin may have changed anything; None if it wrote none."""
    try:
        found = json.loads(path.read_text("utf-8"))
        return {**found, "problems": [*found["problems"]], "notes": [*found["notes"]]}
    except (OSError, KeyError, TypeError, ValueError):
        return None


# In the process of a plugin


def probe(job: dict[str, Any]) -> None:
    """Import the targets of entries, write a report, and end the process.

    Args:
        job: `entries`, modules to `preload`, and the file of the `report`.
    """
    import psutil

    entries = [Entry(**{**values, "needs": tuple(values["needs"])}) for values in job["entries"]]
    for module in job["preload"]:
        import_module(module)
    process, dumps = psutil.Process(), json.dumps
    before, noted, threads = _state(), _settings(), set(_threads())
    memory, started = process.memory_info().rss, perf_counter()
    problems = [problem for entry in entries for problem in _import_problem(entry)]
    if os.getpid() != process.pid:  # a plugin has forked, and its child came here too
        os._exit(0)
    facts = {
        "seconds": round(perf_counter() - started, 3),
        "memory_mib": round((process.memory_info().rss - memory) / 2**20, 1),
        "imports_torch": "torch" in sys.modules,
        "again": [name for name in _STATEFUL if name in sys.modules and name not in job["preload"]],
    }
    with suppress(Exception):  # the plugin may have closed it
        sys.stdout.flush()
    after, settings = _state(), _settings()
    problems += [f"changes {what} on import" for what in before if before[what] != after[what]]
    notes = [f"changes {what} on import" for what in noted if noted[what] != settings[what]]
    notes += [f"starts the thread '{name}' on import" for name in sorted(set(_threads()) - threads)]
    children = process.children(recursive=True)
    notes += [f"starts the process '{one.name()}' on import" for one in children]
    if not facts["again"]:
        found = [problem for entry in entries for problem in _use_problems(entry)]
        problems += reversed({_defect(problem): problem for problem in reversed(found)}.values())
    part = Path(job["report"]).with_suffix(".part")
    part.write_text(dumps({**facts, "problems": problems, "notes": notes}), "utf-8")
    part.replace(job["report"])
    for child in children:  # also those with a session of their own
        child.kill()
    os.killpg(0, signal.SIGKILL)  # itself with what the plugin has started: threads and processes


def _import_problem(entry: Entry) -> Iterator[str]:
    from noether.kernel.importing import import_target

    try:
        import_target(entry.target)
    except (Exception, SystemExit) as error:
        yield f"{ROLE_OF[entry.role].named(entry.name)}: cannot be imported: {error_text(error)}"


def _defect(problem: str) -> str:
    """Return what two names of one class or module have in common: the message with its place, else all of it."""
    message = problem.partition(": ")[2]
    return message if _PLACE.search(message) else problem


def _use_problems(entry: Entry) -> Iterator[str]:
    """Yield the reasons why a spec could not use what an entry names, if it can be imported."""
    from noether.config.discriminated import config_class_of
    from noether.kernel.discovery import discovered
    from noether.kernel.importing import import_target
    from noether.kernel.participant import load_plugins
    from noether.kernel.registry import Registry, use_registry

    try:
        import_target(entry.target)
    except (Exception, SystemExit):  # reported already
        return
    try:
        registry = Registry([replace(entry, needs=())])
        with use_registry(registry):
            component = registry.load(entry.role, entry.qualified)
            if entry.role == PLUGIN.name:
                load_plugins([entry.qualified], registry)
            elif entry.role in ROLES:
                config_class_of(component.target, entry.role)
            if entry.role in (PLUGIN.name, "callback"):
                yield from discovered(component).problems
    except PluginError as error:
        yield error.message
    except (Exception, SystemExit) as error:
        yield f"{ROLE_OF[entry.role].named(entry.name)}: cannot be used: {error_text(error)}"


def _state() -> dict[str, Any]:
    """Return the state of the process that decides what a run computes, or how it ends."""
    found: dict[str, Any] = {
        "the generator of random": random.getstate(),
        "the working folder": _working_folder(),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
    }
    if (numpy := sys.modules.get("numpy")) is not None:
        name, keys, *rest = numpy.random.get_state()
        found["the generator of numpy"] = (name, keys.tobytes(), rest)
    if (torch := sys.modules.get("torch")) is not None:
        found["the generator of torch"] = torch.get_rng_state().tolist()
        found["torch's default dtype"] = torch.get_default_dtype()
        found["torch's default device"] = torch.get_default_device()
        found["torch's threads"] = torch.get_num_threads()
        found["torch's gradient mode"] = torch.is_grad_enabled()
        found["torch's deterministic mode"] = torch.are_deterministic_algorithms_enabled()
    return found


def _settings() -> dict[str, Any]:
    """Return further state of the process, which a run does not depend on."""
    return {
        "filters of warnings": list(warnings.filters),
        "the root logger": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "environment variables": dict(os.environ),
    }


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None


def _threads() -> Iterator[str]:
    return (thread.name for thread in threading.enumerate())
