"""What an attempt at a run leaves for the next about one tracker: how far it got, and its run over there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from noether.core.trackers.tail import Delivered


@dataclass(frozen=True, slots=True)
class SpoolState:
    """The content of `spool/<tracker>.json`.

    Attributes:
        delivered: Where the last delivery ended.
        reference: What the tracker needs to continue its run.
    """

    delivered: Delivered = field(default_factory=Delivered)
    reference: dict[str, str] = field(default_factory=dict)


def read_spool(path: Path) -> SpoolState:
    """Read the state that an earlier attempt left; an empty one where there is none or it is unreadable.

    A lost state costs values that the tracker shows twice, so it is no reason to stop a run.
    """
    try:
        fields = json.loads(path.read_bytes())
        reference = {str(name): str(value) for name, value in fields["reference"].items()}
        return SpoolState(Delivered(int(fields["update"]), int(fields["lines"])), reference)
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return SpoolState()


def write_spool(path: Path, state: SpoolState) -> None:
    """Replace the state in one step, so that a kill leaves the old one or the new one.

    Raises:
        OSError: If the disk is full or refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "update": state.delivered.update,
        "lines": state.delivered.lines,
        "reference": state.reference,
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps(fields))
    new.replace(path)
