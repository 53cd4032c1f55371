"""The report of a sweep: its trials, Optuna's plots, and the curves of the best trials, in one HTML file."""

from __future__ import annotations

import base64
import html
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from noether.checkpoint.durable import replace_file
from noether.checkpoint.paths import shown_path
from noether.checkpoint.untrusted import names_inside, read_untrusted
from noether.runs.results.report import sections
from noether.runs.results.report.charts import charts_of
from noether.runs.results.report.media import PNG
from noether.runs.results.report.page import BUDGETS, MOST_BYTES, curves_of, curves_part, filled, toml_text
from noether.runs.results.report.sections import number, text, time_in
from noether.runs.results.summary import RunSummary, summary_of
from noether.runs.sweep.journal import FAILED, OUTPUT, PLOTS, WITH_VALUE, Journal, Record, Trial, cells_of, read_now

MOST_DRAWN = 8
"""Trials whose curves are drawn: as many as there are colours."""
_MOST_ROWS = 1000
_PLOTS = {
    "history": "Optimization history: the value of each trial in their order, and the best one so far",
    "importance": "Importances: a bar for each setting, its share in the differences between values",
    "slice": "Slices: the value of each trial over each setting",
    "pruning": "Intermediate values: what each trial reported to the pruner, over updates",
    "parallel": "Parallel coordinates: a line for each trial through its value and its settings",
}
"""Text for those who do not see it, of each of Optuna's plots by the name of its file."""


def write_sweep_report(journal: Journal, out: Path) -> int:
    """Write the report of a sweep to a file; return its bytes.

    Raises:
        StorageError: if the journal is damaged, or the disk refuses.
    """
    page = sweep_report(journal)
    replace_file(out, page)
    return len(page)


def sweep_report(journal: Journal) -> bytes:
    """Return the report of a sweep as HTML; one that still runs is shown as it is now.

    Raises:
        StorageError: if its journal is damaged.
    """
    record, holder = read_now(journal), journal.holder
    trials = [trial for trial in record.ranked() if trial.wanted]
    summaries = {
        trial.number: summary_of(journal.paths(trial))
        for trial in trials[:_MOST_ROWS]
        if journal.paths(trial).run_path.is_dir()
    }
    drawn = [trial.number for trial in trials if trial.number in summaries and summaries[trial.number].update]
    runs = [summaries[trial] for trial in drawn[:MOST_DRAWN]]
    curves, notes = curves_of([run.paths for run in runs])
    which = f"The {len(runs)} best of the {len(drawn)}" if len(drawn) > len(runs) else "All"
    lead = f'<p class="note">{which} trials that have trained; the speed is in the report of each.</p>' if runs else ""
    page = b""
    for points, figures in BUDGETS:
        found, most = charts_of(curves, points)
        charts = [chart for chart in found if chart["group"] != "speed"]
        charts.sort(key=lambda chart: all(one["key"] != record.objective.metric for one in chart["series"]))
        parts = {
            "trials": ("Trials", _trials(journal, record, trials, summaries, drawn)),
            "plots": ("Optuna's plots", _plots(journal, record, figures, is_going=holder is not None)),
            "curves": ("Curves", lead + curves_part(runs, curves, charts, most, notes)),
            **_best(journal, record, summaries),
            "next": ("How to go on", _commands(journal, record, summaries)),
        }
        header = _header(record, trials, is_going=holder is not None)
        page = filled(f"{journal.name}, a sweep", header, parts, runs, curves, charts)
        if len(page) <= MOST_BYTES:
            break
    return page


def _header(record: Record, trials: Sequence[Trial], *, is_going: bool) -> str:
    objective, winner = record.objective, record.winner()
    ended = sum(trial.has_ended for trial in trials)
    state = "running" if is_going else "finished" if ended == len(trials) else "stopped"
    states = Counter(trial.state for trial in trials)
    told = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
    facts = {
        f"Best {objective.metric}": "-" if winner is None else number(winner.value(objective)),
        "Trials": told if len(states) == 1 else f"{len(trials)}: {told}",
        "Method": record.method,
        "Started (UTC)": f"{datetime.fromtimestamp(time_in(record.created), UTC):%Y-%m-%d %H:%M}",
        "Time of all trials": sections.duration(sum(trial.seconds or 0.0 for trial in trials)),
    }
    warning = {
        "running": f"The sweep still runs: the page shows it as it was when {ended} of {len(trials)} trials had ended.",
        "stopped": f"The sweep was stopped before its end, with {ended} of {len(trials)} trials. The command that "
        "began it goes on with the others.",
    }.get(state)
    warned = f'<p class="warn">{warning}</p>' if warning else ""
    shown = "".join(
        f"<div><dt>{text(name, 200)}</dt><dd>{text(value, 300)}</dd></div>" for name, value in facts.items()
    )
    title = f'<div class="title"><h1>{text(record.name, 200)}</h1>{sections.badge(state)}</div>'
    spec = f'<p class="id">A sweep of <code>{text(record.spec, 300)}</code></p>'
    return f'{title}{spec}{warned}<dl class="facts">{shown}</dl>'


def _trials(
    journal: Journal,
    record: Record,
    trials: Sequence[Trial],
    summaries: Mapping[int, RunSummary],
    drawn: Sequence[int],
) -> str:
    """Return the table of the trials, the best first, with a line on everything that it does not show."""
    winner = record.winner()
    cells = [cells_of(trial.values) for trial in trials[:_MOST_ROWS]]
    swept = list(dict.fromkeys(name for of_trial in cells for name in of_trial))
    values = ("final", "best") if record.objective.value == "final" else ("best", "final")
    rows = []
    for trial, of_trial in zip(trials, cells, strict=False):
        place = drawn.index(trial.number) if trial.number in drawn[:MOST_DRAWN] else None
        named = sections.run_name(place, journal.run_id(trial))
        mark = '<span class="mark">best</span>' if trial is winner else ""
        row = [f"{named}{mark}", sections.badge(trial.state), *(text(of_trial.get(name, ""), 300) for name in swept)]
        row += [_value(record, trial, value, summaries.get(trial.number)) for value in values]
        row += [sections.duration(trial.seconds) if trial.seconds is not None else "-"]
        rows.append(("winner" if trial is winner else "", row))
    head = ["Trial", "State", *(text(name, 200) for name in swept), *(value.capitalize() for value in values), "Time"]
    return sections.table(head, rows, range(2, len(head))) + _notes(journal, record, trials)


def _notes(journal: Journal, record: Record, trials: Sequence[Trial]) -> str:
    """Return the lines below the table of the trials: metric, trials that are absent, errors."""
    notes = [f"Compared by {record.objective.words}."]
    if record.winner() is None:
        notes.append("No trial has finished with a value yet, so none is the best.")
    if len(trials) > _MOST_ROWS:
        notes.append(f"The first {_MOST_ROWS:,} of {len(trials):,} trials are shown.")
    if removed := [journal.run_id(trial) for trial in record.trials if not trial.wanted]:
        notes.append(f"Not in [sweep] any more, and not shown: {', '.join(removed[:50])}")
    failed = [f"{journal.run_id(trial)}: {trial.error or 'failed'}" for trial in trials if trial.state == FAILED]
    if failed:
        notes.append(f"What trials have printed is in {OUTPUT}/ of the folder of the sweep.")
    if len(failed) > 10:
        failed[10:] = [f"and {len(failed) - 10} more trials failed"]
    said = "".join(f'<p class="note">{text(note)}</p>' for note in notes)
    return said + "".join(f'<p class="warn failed">{text(error)}</p>' for error in failed)


def _value(record: Record, trial: Trial, which: str, summary: RunSummary | None) -> str:
    """Return the final or the best value of a trial with its update."""
    value: float | None = getattr(trial, which)
    found = summary.evaluated(record.objective.metric) if summary is not None else None
    update = getattr(found, f"{which}_update", None)
    at = f'<span class="at">at {update:,}</span>' if value is not None and update is not None else ""
    return f"{number(value)}{at}"


def _plots(journal: Journal, record: Record, budget: int, *, is_going: bool) -> str:
    """Return Optuna's plots that lie in the folder of the sweep, or the reason why there are none."""
    shown, missing, notes = [], [], []
    try:
        names = set(names_inside(journal.folder, PLOTS)) & {f"{name}.png" for name in _PLOTS}
    except OSError:  # a link
        names = set()
    for name, described in _PLOTS.items():
        title = described.partition(":")[0]
        if f"{name}.png" not in names:
            missing += [title] if name != "pruning" or any(trial.reports for trial in record.trials) else []
            continue
        try:
            data = read_untrusted(journal.folder, f"{PLOTS}/{name}.png", limit=budget)
        except (OSError, ValueError):
            data = b""
        if data.startswith(PNG):
            budget -= len(data)
            shown.append(
                f'alt="{html.escape(described)}" src="data:image/png;base64,{base64.b64encode(data).decode()}"'
            )
        else:
            notes.append(f"{title}: {PLOTS}/{name}.png is too large for this page, or is not a picture.")
    is_open = is_going or not all(trial.has_ended for trial in record.trials if trial.wanted)
    if not names:
        notes.append(_why_no_plots(record, is_open=is_open))
    elif is_open:
        notes.append("They were drawn when the sweep ended last: they lack the trials since.")
    elif missing:
        notes.append(
            f"Optuna could not draw, from these trials or with the packages that it had: {', '.join(missing)}."
        )
    if shown and all(trial.wanted for trial in record.trials):
        notes.append(f"Optuna numbers trials from 0: its trial 0 is {journal.run_id(record.trials[0])}.")
    wide = len(shown) - 1 if len(shown) % 2 else None
    cards = "".join(
        f'<figure class="card optuna{" wide" if place == wide else ""}"><img {image}></figure>'
        for place, image in enumerate(shown)
    )
    said = "".join(f'<p class="note">{text(note)}</p>' for note in notes)
    return (f'<div class="grid">{cards}</div>' if shown else "") + said


def _why_no_plots(record: Record, *, is_open: bool) -> str:
    if record.method != "optuna" and not any(trial.reports for trial in record.trials):
        return (
            f"There are none: the trials of this sweep are those of method = {record.method}. Optuna draws its plots "
            "for method = optuna, and with a pruner."
        )
    if is_open:
        return "There are none yet: Optuna draws them when the sweep ends."
    if sum(trial.state in WITH_VALUE for trial in record.trials) < 2:
        return "There are none: Optuna needs two trials with a value."
    return f"There are none in {PLOTS} of the folder of the sweep: start it again with Optuna installed to draw them."


def _best(journal: Journal, record: Record, summaries: Mapping[int, RunSummary]) -> dict[str, tuple[str, str]]:
    """Return the part with the spec of the best trial; none if there is no best trial."""
    winner = record.winner()
    if winner is None or (summary := summaries.get(winner.number)) is None:
        return {}
    return {"spec": (f"Spec of {text(journal.run_id(winner))}", sections.spec([summary], toml_text))}


def _commands(journal: Journal, record: Record, summaries: Mapping[int, RunSummary]) -> str:
    folder = shown_path(journal.folder)
    ranked = [
        shlex.quote(str(shown_path(summaries[trial.number].paths.run_path)))
        for trial in record.ranked()
        if trial.wanted and trial.number in summaries and trial.state in WITH_VALUE
    ]
    found = {}
    if record.winner() is not None and (journal.folder / "best.toml").is_file():
        found["Train with the best values"] = f"noether run {shlex.quote(str(folder / 'best.toml'))}"
    if ranked:
        found["Report of the best trial"] = f"noether runs report {ranked[0]}"
        found["Evaluate the best trial again"] = f"noether eval {ranked[0]}"
    if len(ranked) > 1:
        found["Compare the best trials"] = f"noether runs compare {' '.join(ranked[:3])}"
    return sections.command_list(found | {"Make this page again": f"noether runs report {shlex.quote(str(folder))}"})
