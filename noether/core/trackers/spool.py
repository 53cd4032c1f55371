"""What an attempt at a run leaves for the next, and for `noether tracker sync`, about one tracker.

`spool/<tracker>.json` says how far it got and which run it has over there, `spool/<tracker>.run.json` what it was told
about the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from noether.core.trackers.base import RunDescription
from noether.core.trackers.tail import Delivered

_PATHS = ("run_dir", "spec_path", "resolved_spec_path")
_NOT_KEPT = ("reference", "token", "started", "ended")


@dataclass(frozen=True, slots=True)
class SpoolState:
    """The content of `spool/<tracker>.json`.

    Attributes:
        delivered: Where the last delivery ended.
        sending: Where the last one that was begun would end; beyond `delivered`, nobody knows what arrived.
        reference: What the tracker needs to continue its run.
        token: What marks everything that is created for this run on the other side.
        files: Files that wait to be uploaded, each with the folder that it goes to.
        ended: The status that the tracker has acknowledged; empty while the run goes on.
    """

    delivered: Delivered = field(default_factory=Delivered)
    sending: Delivered = field(default_factory=Delivered)
    reference: Mapping[str, str] = field(default_factory=dict)
    token: str = ""
    files: tuple[tuple[str, str], ...] = ()
    ended: str = ""


def read_spool(path: Path) -> SpoolState:
    """Read the state that an earlier attempt left; an empty one where there is none or it is unreadable.

    A lost state costs values that the tracker shows twice, so it is no reason to stop a run.
    """
    try:
        found = json.loads(path.read_bytes())
        return SpoolState(
            delivered=Delivered(int(found["update"]), int(found["lines"])),
            sending=Delivered(*(int(part) for part in found.get("sending", (-1, 0)))),
            reference={str(name): str(value) for name, value in found["reference"].items()},
            token=str(found.get("token", "")),
            files=tuple((str(file), str(folder)) for file, folder in found.get("files", ())),
            ended=str(found.get("ended", "")),
        )
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return SpoolState()


def write_spool(path: Path, state: SpoolState, *, durably: bool = False) -> None:
    """Replace the state in one step, so that a kill leaves the old one or the new one.

    Args:
        path: The file.
        state: What to write.
        durably: Wait until it is on the disk: what would otherwise be lost with the power is a run over there, and
            not only how far it got.

    Raises:
        OSError: If the disk is full or refuses.
    """
    body = {
        "update": state.delivered.update,
        "lines": state.delivered.lines,
        "sending": [state.sending.update, state.sending.lines],
        "reference": dict(state.reference),
        "token": state.token,
        "files": state.files,
        "ended": state.ended,
    }
    _replace(path, body, durably=durably)


def description_path(spool_path: Path) -> Path:
    """Return where the description of the run is kept that belongs to a spool file."""
    return spool_path.with_suffix(".run.json")


def write_description(path: Path, run: RunDescription) -> None:
    """Keep what a tracker is told about the run, for whoever delivers later.

    Raises:
        OSError: If the disk is full or refuses.
    """
    body: dict[str, Any] = {}
    for each in fields(run):
        value = getattr(run, each.name)
        if each.name not in _NOT_KEPT:
            body[each.name] = str(value) if isinstance(value, Path) else value
    _replace(path, body, durably=True)


def read_description(path: Path) -> RunDescription | None:
    """Read a description back; None where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
        paths = {name: Path(found[name]) for name in _PATHS if found.get(name)}
        return RunDescription(**{**found, **paths})
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _replace(path: Path, body: Mapping[str, Any], *, durably: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(body, file, default=dict)  # mappings that are no dicts
        if durably:
            file.flush()
            os.fsync(file.fileno())
    new.replace(path)
