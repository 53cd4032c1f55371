"""A plan as text: what `noether plan` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from noether.cli.quantities import size_in_words

if TYPE_CHECKING:
    from noether.runs.plan.plan import Plan, PlannedCheckpoints

_HOOKS = {
    "run_started": "when the run starts",
    "before_training": "before training",
    "before_optimizer_step": "before each optimizer step",
    "track_after_accumulation_step": "after each forward pass",
    "track_after_update_step": "after each update",
    "at_eval": "at evaluation",
    "checkpoint_committed": "after each checkpoint",
    "after_training": "after training",
    "run_finished": "when the run ends",
}
_SHOWN_UPDATES = 6


def print_plan(plan: Plan) -> None:
    """Print a plan, a section each for training, callbacks, evaluation and checkpoints."""
    print(f"{plan.name}: {_headline(plan)}")
    _section("training", _training(plan))
    if plan.callbacks:
        print("\nafter an update, in this order")
        _table(
            [
                {
                    "callback": row.id,
                    "kind": row.kind,
                    "interval": row.interval.replace("=", " = "),
                    "hook": row.hook,
                    "first": "never" if row.first is None else f"update {row.first:,}",
                    "every": _plural(row.every, "update") if row.every else "varies",
                    "times": f"{row.times:,}",
                }
                for row in plan.callbacks
            ]
        )
    _section("otherwise", {_HOOKS.get(hook, hook): ", ".join(order) for hook, order in plan.hooks.items()})
    if plan.passes:
        print("\nevaluation")
        _table(
            [
                {
                    "callback": row.id,
                    "data set": row.dataset,
                    "samples": f"{row.samples:,}",
                    "batches": f"{row.batches:,}",
                    "passes": "when its owner asks" if row.times is None else f"{row.times:,}",
                    "batches in all": "" if row.times is None else f"{row.batches * row.times:,}",
                }
                for row in plan.passes
            ]
        )
    _section("checkpoints", _checkpoints(plan.checkpoints))


def _headline(plan: Plan) -> str:
    if not plan.updates:
        return f"no training, one evaluation, on {plan.device}"
    return f"{_plural(plan.updates - plan.first_update, 'update')} on {plan.device}"


def _training(plan: Plan) -> dict[str, str]:
    sizes = ", ".join(f"{key} {size:,}" for key, size in plan.datasets.items())
    lines = {"samples": sizes, "model": f"{plan.parameters:,} parameters, {plan.trainable:,} trainable"}
    if not plan.updates:
        return lines
    left_out = f"; {_plural(plan.samples_left_out, 'sample')} left out" if plan.samples_left_out else ""
    lines["update"] = f"{_plural(plan.effective_batch_size, 'sample')} = {_batches(plan)}"
    lines["epoch"] = _plural(plan.updates_per_epoch, "update") + left_out
    lines["whole run"] = " = ".join(
        (_plural(plan.updates, "update"), _plural(plan.epochs, "epoch"), _plural(plan.samples, "sample"))
    )
    if plan.first_update:
        lines["starts after"] = _plural(plan.first_update, "update")
    if plan.seconds is not None:
        lines["takes"] = f"{_duration(plan.seconds)} for the updates; evaluation and checkpoints come on top"
    return lines


def _batches(plan: Plan) -> str:
    ranks = "" if plan.ranks == 1 else f"{plan.ranks} ranks x "
    steps = _plural(plan.accumulation_steps, "accumulation step")
    return f"{ranks}{steps} of {_plural(plan.batch_size, 'sample')}"


def _checkpoints(checkpoints: PlannedCheckpoints) -> dict[str, str]:
    if not checkpoints.updates:
        return {}
    of_files = ", ".join(f"{name} {size_in_words(size)}" for name, size in checkpoints.files.items())
    kept = size_in_words(checkpoints.size * len(checkpoints.kept))
    lines = {
        "after update": _shortened(checkpoints.updates),
        "kept": f"{len(checkpoints.kept)} of {len(checkpoints.updates)}: {_shortened(checkpoints.kept)}",
        "size": f"about {size_in_words(checkpoints.size)} each, {kept} kept",
        "files": of_files,
    }
    if checkpoints.naming:
        lines["beside"] = f"the best of {', '.join(checkpoints.naming)}, which stay and are not counted here"
    if not checkpoints.optimizer_known:
        lines["not counted"] = "the optimizer's state, which is not known before the first update"
    return lines


def _section(title: str, lines: Mapping[str, str]) -> None:
    if not lines:
        return
    print(f"\n{title}")
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"  {name.ljust(width)}  {value}")


def _table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows below a header; columns of numbers are aligned to the right."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [all(cell.replace(",", "").isdigit() for cell in column[1:]) for column in columns]
    for line in lines:
        cells = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        )
        print(f"  {'  '.join(cells)}".rstrip())


def _shortened(updates: Sequence[int]) -> str:
    shown = [f"{update:,}" for update in updates]
    if len(shown) > _SHOWN_UPDATES:
        shown = [*shown[: _SHOWN_UPDATES - 2], "…", shown[-1]]
    return ", ".join(shown) + (f" ({len(updates):,} in all)" if len(updates) > _SHOWN_UPDATES else "")


def _plural(number: float, unit: str) -> str:
    text = f"{number:,.2f}".rstrip("0").rstrip(".") if isinstance(number, float) else f"{number:,}"
    return f"{text} {unit}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{value} {unit}" for value, unit in parts if value]
    return " ".join(shown[:2])
