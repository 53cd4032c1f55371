"""Checkpoints and verdicts on them as `noether checkpoint` prints them: in rows, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from noether.cli.quantities import size_in_words

if TYPE_CHECKING:
    from noether.runs.checkpoints.listing import Listed
    from noether.runs.checkpoints.verify import Verdict


def row(step: Listed) -> dict[str, str]:
    """Return a checkpoint as a row of the table."""
    found = step.manifest
    return {
        "name": step.name,
        "update": str(step.update),
        "epoch": str(found.epoch) if found else "-",
        "samples": str(found.sample) if found else "-",
        "size": size_in_words(step.size) if found else "-",
        "resumable": "yes" if step.resumable else "no",
        "pinned": "yes" if step.pinned else "no",
        "names": ", ".join(step.names) if found else f"damaged: {step.problem}",
    }


def described(step: Listed) -> dict[str, Any]:
    """Return a checkpoint as JSON holds it."""
    found = step.manifest
    return {
        "name": step.name,
        "folder": str(step.folder),
        "update": step.update,
        "epoch": found.epoch if found else None,
        "samples": found.sample if found else None,
        "size": step.size if found else None,
        "resumable": step.resumable,
        "pinned": step.pinned,
        "names": list(step.names),
        "problem": step.problem,
    }


def verdict_of(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON holds it."""
    damages = [{"file": damage.file, "reason": damage.reason} for damage in verdict.damages]
    step = verdict.step
    return {"name": step.name, "folder": str(step.folder), "valid": verdict.is_valid, "damages": damages}


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print which checkpoints are valid, and below a damaged one its damaged files."""
    for verdict in verdicts:
        found = verdict.step.manifest
        what = f"{len(found.files)} files, {size_in_words(verdict.step.size)}" if found else verdict.step.folder.name
        print(f"{verdict.step.name}: {'valid' if verdict.is_valid else 'damaged'} ({what})")
        for damage in verdict.damages:
            print(f"  {damage.file}: {damage.reason}")
