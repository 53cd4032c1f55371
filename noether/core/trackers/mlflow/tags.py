"""The tags of a run in MLflow: who, from which spec and commit, on which machine."""

from __future__ import annotations

from noether.core.trackers.base import RunDescription
from noether.core.trackers.facts import process_facts

MAX_TAG_LENGTH = 8000


def run_tags(run: RunDescription, run_name: str) -> dict[str, str]:
    """Return the tags of a new run; a fact that is not known has no tag."""
    facts = run.facts or process_facts(run.spec_path)
    tags = {
        "mlflow.runName": run_name,
        "mlflow.user": facts.get("user"),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": str(run.spec_path) if run.spec_path else None,
        "mlflow.source.git.commit": facts.get("git_commit"),
        "mlflow.note.content": run.summary or None,
        **process_tags(run),
        **run.tags,
    }
    return {name: value[:MAX_TAG_LENGTH] for name, value in tags.items() if value is not None}


def process_tags(run: RunDescription) -> dict[str, str]:
    """Return the tags that each attempt at a run sets anew."""
    facts = run.facts or process_facts(run.spec_path)
    known = {f"noether.{name}": facts[name] for name in ("version", "host", "pid") if name in facts}
    return {
        "noether.run_id": run.run_id,
        "noether.run_dir": str(run.run_dir.absolute()),
        "noether.attempt": str(run.attempt),
        **known,
    }
