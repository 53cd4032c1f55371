"""Sections of a report as HTML: facts, results, time by part, tables, spec, environment, commands; all text escaped."""

from __future__ import annotations

import html
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from noether.checkpoint.paths import shown_path
from noether.checkpoint.untrusted import names_inside
from noether.config.metric_facts import is_evaluation
from noether.config.secrets import remember_password_in, withheld
from noether.errors import NoetherError
from noether.metrics.metrics_file import MetricsFile
from noether.runs.folder.run_folder import CALLBACKS, EVALUATIONS, Attempt, read_run
from noether.runs.results.report.charts import PARTS, importance
from noether.runs.results.report.curves import Curves
from noether.runs.results.report.media import Media
from noether.runs.results.summary import Evaluated, RunSummary
from noether.runs.tracking.tracking import flattened
from noether.spec.errors.words import duration_in_words, visible_lines

_NONE = "-"
_LONGEST = 2000  # characters of a text in a cell
_LONGEST_SPEC = 150_000  # characters of the spec in a report
_ERROR = 4000
_MOST_EVALUATIONS = 8


def plain(value: object, most: int = _LONGEST) -> str:
    """Return a text without secrets and control characters; the end of a long one is cut."""
    shown = withheld(visible_lines(str(value)))
    return shown if len(shown) <= most else f"{shown[:most]} … ({len(shown)} characters)"


def text(value: object, most: int = _LONGEST) -> str:
    """Return a text as HTML, see `plain`."""
    return html.escape(plain(value, most))


def number(value: float | None) -> str:
    """Return a number with six digits; `-` for none."""
    if value is None:
        return _NONE
    return f"{int(value):,}" if math.isfinite(value) and value == int(value) and abs(value) < 1e9 else f"{value:.6g}"


def run_name(number: int | None, name: str) -> str:
    """Return the name of a run with its colour; without one, in the same place, for None."""
    return f'<span class="run{"" if number is None else f" k{number % 8}"}">{text(name, 200)}</span>'


def table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], numeric: Sequence[int] = ()) -> str:
    """Return a table whose cells are HTML already.

    Args:
        head: Names of the columns.
        rows: Class and cells of each row; the first cell heads it.
        numeric: Places of columns that end at the right.
    """
    kinds = [' class="n"' if place in numeric else "" for place in range(len(head))]
    header = "".join(f'<th scope="col"{kind}>{name}</th>' for kind, name in zip(kinds, head, strict=True))
    body = []
    for style, cells in rows:
        first, *others = cells
        rest = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        body.append(f'<tr class="{style}"><th scope="row">{first}</th>{rest}</tr>')
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def badge(status: str) -> str:
    """Return the state of a run as a badge."""
    return f'<span class="badge {text(status.lower())}">{text(status.lower())}</span>'


def header(runs: Sequence[RunSummary]) -> str:
    """Return the title of the page with the facts of its run, or with a line for each run."""
    if len(runs) == 1:
        (run,) = runs
        title = f'<div class="title"><h1>{text(run.name, 200)}</h1>{badge(run.status)}</div>'
        facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(run).items())
        return (
            f'{title}<p class="id mono">{text(run.run_id)}</p>{"".join(_troubles(run))}<dl class="facts">{facts}</dl>'
        )
    names = list(dict.fromkeys(run.name for run in runs))
    shown = ", ".join(text(name, 80) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    facts_of = [_facts(run) for run in runs]
    rows = [
        ("", [run_name(place, run.run_id), badge(run.status), *facts.values()])
        for place, (run, facts) in enumerate(zip(runs, facts_of, strict=True))
    ]
    listed = table(["Run", "State", *facts_of[0]], rows, range(3, 9))
    troubles = "".join("".join(_troubles(run, f"{run.run_id}: ")) for run in runs)
    return f'<div class="title"><h1>{len(runs)} runs of {shown}</h1></div>{troubles}{listed}'


def _facts(run: RunSummary) -> dict[str, str]:
    created = datetime.fromtimestamp(time_in(run.created), UTC) if time_in(run.created) else None
    parameters = run.metrics.get("model/parameters")
    return {
        "Started (UTC)": f"{created:%Y-%m-%d %H:%M}" if created else _NONE,
        "Time": duration_in_words(run.seconds),
        "Updates": number(run.update),
        "Epochs": number(run.epoch),
        "Samples": number(run.sample),
        "Parameters": number(parameters),
        "Seed": number(run.seed),
    }


def _troubles(run: RunSummary, name: str = "") -> list[str]:
    found = []
    if run.error:
        found.append(f'<p class="warn failed">{text(name + run.error, _ERROR)}</p>')
    if run.problem:
        found.append(f'<p class="warn">A part of the run folder cannot be read: {text(name + run.problem)}</p>')
    if run.status == "RUNNING":
        now = f"{name}The run still trains: this page shows it as it was at update {run.update:,}."
        found.append(f'<p class="warn">{text(now)}</p>')
    return found


def results(runs: Sequence[RunSummary]) -> str:
    """Return the table of final and best values of each evaluation metric."""
    keys = sorted(dict.fromkeys(one.key for run in runs for one in run.evaluations), key=importance)
    if not keys:
        return (
            '<p class="note">No metric of an evaluation was logged. The callbacks <code>offline-loss</code> and '
            "<code>offline-metrics</code> evaluate the model while it trains.</p>"
        )
    by_key = [{one.key: one for one in run.evaluations} for run in runs]
    rows = []
    for key in keys:
        found = [of_run.get(key) for of_run in by_key]
        winner = _winner([one for one in found if one is not None])
        for place, one in enumerate(found):
            if one is not None:
                cells = _result_cells(one, is_best=len(runs) > 1 and one is winner)
                named = text(key, 300) if place == next(i for i, other in enumerate(found) if other) else ""
                own = [run_name(place, runs[place].run_id)] if len(runs) > 1 else []
                rows.append(("metric" if named else "", [named, *own, *cells]))
    own = ["Run"] if len(runs) > 1 else []
    head = ["Metric", *own, "Final", "Best", "", "Checkpoint of the best"]
    return table(head, rows, range(1 + len(own), 3 + len(own)))


def _winner(found: Sequence[Evaluated]) -> Evaluated | None:
    ranked = [one for one in found if one.best is not None and math.isfinite(one.best)]
    if not ranked or not ranked[0].direction:
        return None
    return (min if ranked[0].direction == "min" else max)(ranked, key=lambda one: one.best or 0.0)


def _result_cells(one: Evaluated, *, is_best: bool) -> list[str]:
    at = f'<span class="at">at {one.final_update:,}</span>'
    best, means = _NONE, "direction not known"
    if one.best is not None:
        style = "best" if is_best else ""
        best = f'<span class="{style}">{number(one.best)}</span><span class="at">at {one.best_update or 0:,}</span>'
        means = "lower is better" if one.direction == "min" else "higher is better"
    checkpoint = f"<code>{text(one.checkpoint, 200)}</code>" if one.checkpoint else _NONE
    return [f"{number(one.final)}{at}", best, f'<span class="at">{means}</span>', checkpoint]


def evaluated_again(runs: Sequence[RunSummary]) -> str:
    """Return a table of what `noether eval` kept in the folder of a single run; empty if there is nothing."""
    found: dict[str, Mapping[str, float]] = {}
    names: list[str] = []
    with suppress(OSError):  # a link
        folder = runs[0].paths.run_path / EVALUATIONS
        names = names_inside(folder.parent, folder) if len(runs) == 1 else []
        for name in names[:_MOST_EVALUATIONS]:
            with suppress(OSError, NoetherError):
                records = MetricsFile(folder / name / "metrics.jsonl", folder.parent).read(skips_damaged=True)
                found[name] = {key: value for one in records for key, value in one.metrics.items()}
    keys = sorted({key for values in found.values() for key in values if is_evaluation(key)}, key=importance)[:100]
    shown = {name: values for name, values in found.items() if values.keys() & set(keys)}
    rows = [("", [text(key, 300), *(number(values.get(key)) for values in shown.values())]) for key in keys]
    head = ["Metric", *(f"<code>{text(name, 200)}</code>" for name in shown)]
    more = f", {_MOST_EVALUATIONS} of {len(names)} evaluations" if len(names) > _MOST_EVALUATIONS else ""
    title = f'<h3 class="group">Checkpoints evaluated afterwards{more}</h3>'
    return f"{title}{table(head, rows, range(1, len(head)))}" if rows else ""


def time_parts(runs: Sequence[RunSummary], curves: Sequence[Curves]) -> str:
    """Return a bar for each run with the shares of the parts of an update; empty if nothing was measured."""
    bars = []
    for place, (run, of_run) in enumerate(zip(runs, curves, strict=True)):
        means = {part: of_run.by_key[key].mean for part in PARTS if (key := f"profiling/{part}_time") in of_run.by_key}
        means = {part: mean for part, mean in means.items() if math.isfinite(mean) and mean >= 0}
        if total := sum(means.values()):
            name = f"<p>{run_name(place, run.run_id)}</p>" if len(runs) > 1 else ""
            bars.append(name + _bar(means, total))
    if not bars:
        return ""
    note = "Mean seconds of an update: waiting for data, forward pass, backward pass, optimizer step."
    return f'<div class="card">{"".join(bars)}</div><p class="note">{note}</p>'


def _bar(means: Mapping[str, float], total: float) -> str:
    at, pieces, names = 0.0, [], []
    for place, (part, mean) in enumerate(means.items()):
        share = 100 * mean / total
        pieces.append(f'<rect class="bar k{place}" x="{at:.3f}" y="0" width="{share:.3f}" height="10"></rect>')
        said = f'{part} {share:.0f} % <span class="at">{mean * 1000:.3g} ms</span>'
        names.append(f'<li><span class="swatch k{place}"></span>{said}</li>')
        at += share
    drawn = (
        f'<svg class="share" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{"".join(pieces)}</svg>'
    )
    return f'{drawn}<ul class="shares">{"".join(names)}</ul>'


def callback_costs(runs: Sequence[RunSummary]) -> str:
    """Return the table of callbacks in rounds with an evaluation, over all attempts; empty if none was timed."""
    rows = []
    for place, run in enumerate(runs):
        costs: dict[str, list[float]] = {}
        for attempt in run.attempts:
            recorded = attempt.record.get(CALLBACKS)
            for name, cost in recorded.items() if isinstance(recorded, dict) else ():
                if isinstance(cost, list) and [*map(time_in, cost)] == cost and len(cost) == 2:
                    known = costs.setdefault(name, [0.0, 0.0])
                    known[:] = known[0] + cost[0], known[1] + cost[1]
        own = [run_name(place, run.run_id)] if len(runs) > 1 else []
        for name, (calls, seconds) in sorted(costs.items(), key=lambda one: -one[1][1])[:100]:
            each = f"{1000 * seconds / max(calls, 1):.1f}"
            rows.append(("", [text(name, 200), *own, number(calls), f"{seconds:.2f}", each]))
    head = [
        "Callback, in rounds with an evaluation",
        *(["Run"] if len(runs) > 1 else []),
        "Times",
        "Seconds",
        "ms each",
    ]
    title = '<h3 class="group">Time of callbacks</h3>'
    return f"{title}{table(head, rows, range(len(head) - 3, len(head)))}" if rows else ""


def tables(media: Media, runs: Sequence[RunSummary]) -> str:
    """Return the tables of callbacks, and a list of their files."""
    parts = []
    for place, result, columns, rows, count in media.tables:
        kinds = [n for n, name in enumerate(columns) if result.types.get(name) in ("int", "float")]
        shown = [("", [text(_cell(value), 300) for value in row]) for row in rows if len(row) == len(columns) > 0]
        name = f" · {run_name(place, runs[place].run_id)}" if len(runs) > 1 else ""
        more = f", the first {len(rows)} of {count} rows" if count > len(rows) else ""
        title = f'<h3>{text(result.key, 300)} <span class="note">update {result.update:,}{more}</span>{name}</h3>'
        parts.append(f"<div>{title}{table([text(column, 100) for column in columns], shown, kinds)}</div>")
    if media.files:
        listed = [
            ("", [text(one.key, 300), number(one.update), f"<code>{text(one.file)}</code>", number(one.size)])
            for _, one in media.files[:100]
        ]
        parts.append(f"<h3>Files</h3>{table(['File', 'Update', 'Place in the run folder', 'Bytes'], listed, (1, 3))}")
    return "".join(parts)


def _cell(value: object) -> object:
    return "" if value is None else number(value) if isinstance(value, float) else value


def single(values: Mapping[str, Sequence[Any]], runs: Sequence[RunSummary]) -> str:
    """Return the table of values that were logged once."""
    rows = [
        ("", [text(key, 300), *(number(float(value)) if value is not None else _NONE for value in of_runs)])
        for key, of_runs in list(values.items())[:200]
    ]
    head = ["Value", *([run_name(i, run.run_id) for i, run in enumerate(runs)] if len(runs) > 1 else [""])]
    return table(head, rows, range(1, len(head))) if rows else ""


def spec(runs: Sequence[RunSummary], toml: Callable[[Mapping[str, Any]], str]) -> str:
    """Return the resolved spec: of one run as TOML, of several the settings that differ, and below them all."""
    flat = [flattened(run.tables) for run in runs]
    for value in (value for of_run in flat for value in of_run.values()):
        if "://" in value:
            remember_password_in(value)
    if len(runs) == 1:
        if not runs[0].tables:
            return '<p class="note">The run has no resolved spec.</p>'
        summary = f"Resolved spec: {len(flat[0])} settings"
        return f"<details><summary>{summary}</summary><pre>{text(toml(runs[0].tables), _LONGEST_SPEC)}</pre></details>"
    return _compared(flat, runs, "setting", "Setting")


def _compared(flat: Sequence[Mapping[str, Any]], runs: Sequence[RunSummary], what: str, title: str) -> str:
    """Return a table of the values that differ between runs, and a folded one of all values."""
    keys = list(dict.fromkeys(key for of_run in flat for key in of_run))
    head = [title, *(run_name(place, run.run_id) for place, run in enumerate(runs))]
    rows = {}
    for key in keys:
        values = [of_run.get(key) for of_run in flat]
        style = "differs" if any(value != values[0] for value in values) else ""
        rows[key] = (style, [text(key, 300), *(_NONE if value is None else text(value, 300) for value in values)])
    differing = [row for row in rows.values() if row[0]]
    shown = (
        table(head, [("", cells) for _, cells in differing]) if differing else f'<p class="note">No {what} differs.</p>'
    )
    more = f"<summary>All {len(rows)} {what}s</summary>{table(head, list(rows.values())[:1500])}"
    return f"{shown}<details>{more}</details>"


def environment(runs: Sequence[RunSummary]) -> str:
    """Return versions and machine of the runs, and the attempts of a single one."""
    found = [read_run(run.paths.run_path).get("environment") for run in runs]
    known = [{str(key): str(value) for key, value in one.items()} if isinstance(one, dict) else {} for one in found]
    if len(runs) > 1:
        return _compared(known, runs, "version", "Environment")
    rows = [("", [text(key, 100), text(value, 300)]) for key, value in list(known[0].items())[:50]]
    shown = table(["Environment", ""], rows) if rows else '<p class="note">The environment is not known.</p>'
    attempts = [("", _attempt_cells(attempt)) for attempt in runs[0].attempts[-50:]]
    if len(attempts) > 1:
        head = ["Attempt", "State", "Started (UTC)", "Time", "Continued from", "Reason"]
        shown += f'<h3 class="group">Attempts</h3>{table(head, attempts)}'
    return shown


def _attempt_cells(attempt: Attempt) -> list[str]:
    started, ended = attempt.time_of("started"), attempt.time_of("ended")
    begun = f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M}" if started else _NONE
    time = duration_in_words(max(0.0, ended - started)) if started and ended else _NONE
    reason = text(attempt.record.get("reason") or "", 300)
    return [str(attempt.number), badge(attempt.status), begun, time, attempt.continued_from or _NONE, reason]


def time_in(value: Any) -> float:
    """Return a number of seconds of a record; 0 for anything else."""
    return float(value) if type(value) in (int, float) and 0 <= value < 1 << 36 else 0.0


def commands(runs: Sequence[RunSummary]) -> str:
    """Return the commands with which to go on."""
    names = [shlex.quote(str(shown_path(run.paths.run_path))) for run in runs]
    if len(runs) > 1:
        found = {"Compare the runs in the terminal": f"noether runs compare {' '.join(names)}"}
        best = next((place for place, run in enumerate(runs) if run.evaluations), 0)
    else:
        found, best = {}, 0
    saved = next((one.checkpoint for one in runs[best].evaluations if one.checkpoint), None)
    option = f" --checkpoint {shlex.quote(saved)}" if saved else ""
    if len(runs) == 1:
        if runs[0].status in ("FAILED", "KILLED"):
            found["Continue the run"] = f"noether resume {names[0]}"
        if runs[0].checkpoints:
            found["Evaluate a checkpoint again"] = f"noether eval {names[0]}{option}"
            found["Predict for new data"] = (
                f"noether predict {names[0]}{option} --data inputs.csv --out predictions.csv"
            )
            found["Export the weights"] = f"noether checkpoint export {names[0]}{option}"
        found["See the run in the terminal"] = f"noether runs show {names[0]}"
    return command_list(found | {"Make this page again": f"noether runs report {' '.join(names)}"})


def command_list(found: Mapping[str, str]) -> str:
    """Return commands by their purpose, each with a button that copies it."""
    copy = '<button type="button" class="copy" hidden>copy</button>'
    rows = (
        f"<div><dt>{title}</dt><dd><code>{text(command)}</code></dd>{copy}</div>" for title, command in found.items()
    )
    return f'<dl class="commands">{"".join(rows)}</dl>'
