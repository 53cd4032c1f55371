"""`noether runs`: look at runs, from their folders."""

from __future__ import annotations

from noether.cli import runs_report
from noether.cli.options import verb, verbs

app = verbs("Look at runs and compare them.")


@app.callback()
def _verbs() -> None:
    """Keep `report` a verb of its own: typer would make a single command the whole group."""


verb(app, "report", example=runs_report.EXAMPLE)(runs_report.report)
