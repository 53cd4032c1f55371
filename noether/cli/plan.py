"""`noether check` and `plan`: validate a spec, and show what running it would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import picked, print_json, print_section, print_table, say, size_in_words
from noether.errors import NoetherError
from noether.kernel.names import listed
from noether.spec.errors.words import counted, duration_in_words

if TYPE_CHECKING:
    from noether.runs.plan.plan import Plan, PlannedCheckpoints
    from noether.runs.plan.plan_callbacks import PlannedCallback, PlannedPass
    from noether.runs.plan.plan_model import PlannedModule
    from noether.spec.load import LoadedSpec

app = verbs()


@verb(app, "check", example="noether check specs/experiment.toml -s trainer.precision=bf16")
def check(
    spec: Spec,
    options: SpecOptions,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also build everything, and try two updates and a save in a temporary folder."),
    ] = False,
    output: Annotated[
        Literal["text", "json", "github"],
        typer.Option("--format", help="Format of the problems: for a person, a program, or a GitHub workflow."),
    ] = "text",
) -> None:
    """Validate SPEC without running it.

    Every key, kind and value is checked, and all problems are shown at once. Exit codes: 0 valid, 2 not valid.
    """
    try:
        loaded = options.load(spec)
        notes = _notes(loaded, options)
        if deep:
            from noether.runs.deep_check import check_deeply

            check_deeply(loaded, options.plugins)
    except NoetherError as error:
        if output == "text":
            raise
        _print_problems(error, output)
        raise typer.Exit(error.exit_code) from None
    if output == "text":
        say("\n".join([f"{spec}: valid", *(f"note: {note}" for note in notes)]))
    elif output == "json":
        say("[]")


def _notes(loaded: LoadedSpec, options: SpecOptions) -> list[str]:
    """Return notes on a valid spec: values that may mean something else than the author thinks."""
    from noether.config.secrets import withheld
    from noether.kernel.discovery import Discovery, discovered
    from noether.kernel.dispatch import require_working
    from noether.kernel.participant import load_plugins
    from noether.kernel.registry import use_registry
    from noether.spec.checks import meaning_notes
    from noether.spec.errors.words import toml_path
    from noether.spec.fields import components_in

    with use_registry(loaded.registry):
        plugins = load_plugins([*loaded.spec.plugins.use, *options.plugins])
        callbacks = {one.kind: one for _, one in components_in(loaded.spec) if one.role == "callback"}
        require_working([*map(discovered, callbacks.values()), *map(Discovery, plugins)])
        found = meaning_notes(loaded.spec, plugins=options.plugins)
    return [*loaded.notes, *(withheld(f"{toml_path(note.path)}: {note.message}") for note in found)]


def _print_problems(error: NoetherError, output: Literal["json", "github"]) -> None:
    from noether.spec.errors.problem import as_github, as_json, problems_in

    say(as_json(problems_in(error)) if output == "json" else as_github(problems_in(error)))


_HOOKS = {
    "run_started": "when the run starts",
    "before_training": "before training",
    "before_optimizer_step": "before each optimizer step",
    "track_after_accumulation_step": "after each accumulation step",
    "track_after_update_step": "after each update",
    "at_eval": "at evaluation",
    "checkpoint_committed": "after each checkpoint",
    "after_training": "after training",
    "run_finished": "when the run ends",
}
_SHOWN_UPDATES = 6
_SHOWN_MODULES = 4


@verb(app, "plan", example="noether plan specs/experiment.toml -s trainer.max_epochs=50 --update-time 0.02")
def plan(
    spec: Spec,
    options: SpecOptions,
    update_time: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.0, help="Duration of one update, to estimate the duration of training."),
    ] = None,
    model: Annotated[
        bool,
        typer.Option("--model", help="Call the model with one sample: shapes, parameters and FLOPs of its modules."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what running SPEC would do.

    Updates, batches, callbacks in their order, evaluation, checkpoints and sizes. Data and model are built for it;
    nothing is trained, tracked or left behind. Exit codes: 0 done, 2 wrong spec.
    """
    from noether.runs.plan.plan import make_plan

    loaded = options.load(spec)
    made = make_plan(loaded, options.plugins, update_time=update_time, with_modules=model)
    if as_json:
        print_json(_plan_json(made))
    else:
        print_plan(made)
        for note in loaded.notes:
            say(f"\nnote: {note}")


def _plan_json(plan: Plan) -> dict[str, Any]:
    of_training = (
        "name device threads threads_reason residence datasets parameters trainable recomputed loss updates_per_epoch "
        "samples_left_out effective_batch_size ranks batch_size accumulation_steps form slower_because first_update "
        "updates epochs samples hooks plugins tables seconds"
    )
    return {
        **picked(plan, of_training),
        "callbacks": [picked(row, "id kind hook interval first every times") for row in plan.callbacks],
        "passes": [picked(row, "id dataset samples batches times") for row in plan.passes],
        "checkpoints": picked(plan.checkpoints, "updates kept files optimizer_known naming"),
        "modules": None if plan.modules is None else [asdict(row) for row in plan.modules],
    }


def print_plan(plan: Plan) -> None:
    """Print a plan, a section each for training, run plugins, callbacks, evaluation and checkpoints."""
    from noether.spec.errors.words import toml_literal

    say(f"{plan.name}: {_headline(plan)}")
    print_section("training", _training(plan))
    if plan.modules is not None:
        say("\nmodel, called with a batch of one sample")
        print_table([_module_row(row) for row in plan.modules], indent="  ")
        say("  FLOPs: multiplications and additions of matrix products, convolutions and attention, forward")
    print_section("run plugins", plan.plugins)
    for name, table in plan.tables.items():
        print_section(f"[{name}]", {key: toml_literal(value) for key, value in table.items()})
    if plan.callbacks:
        say("\nafter an update, in this order")
        print_table([_callback_row(row) for row in plan.callbacks], indent="  ")
    print_section("otherwise", {_HOOKS.get(hook, hook): ", ".join(order) for hook, order in plan.hooks.items()})
    if plan.passes:
        say("\nevaluation")
        print_table([_pass_row(row) for row in plan.passes], indent="  ")
    print_section("checkpoints", _checkpoints(plan.checkpoints))


def _module_row(row: PlannedModule) -> dict[str, str]:
    name = f"{'  ' * row.depth}{row.name or 'model'}"
    return {
        "module": name if row.siblings == 1 else f"{name} (each of {row.siblings})",
        "class": row.kind,
        "input": row.inputs,
        "output": row.outputs,
        "parameters": f"{row.parameters:,}",
        "FLOPs": f"{row.flops:,}",
        "note": "; ".join(_module_notes(row)),
    }


def _module_notes(row: PlannedModule) -> Iterator[str]:
    if row.parameters and not row.trainable:
        yield "frozen"
    elif row.trainable < row.parameters:
        yield f"{row.parameters - row.trainable:,} frozen"
    if row.shared:
        yield f"{row.shared:,} shared, counted above"
    if row.calls != 1:
        yield "not called" if not row.calls else f"{row.calls} calls"


def _callback_row(row: PlannedCallback) -> dict[str, str]:
    return {
        "callback": row.id,
        "kind": row.kind,
        "interval": row.interval.replace("=", " = "),
        "hook": row.hook,
        "first": "never" if row.first is None else f"update {row.first:,}",
        "every": counted(row.every, "update") if row.every else "varies",
        "times": f"{row.times:,}",
    }


def _pass_row(row: PlannedPass) -> dict[str, str]:
    return {
        "callback": row.id,
        "data set": row.dataset,
        "samples": f"{row.samples:,}",
        "batches": f"{row.batches:,}",
        "passes": "when its owner asks" if row.times is None else f"{row.times:,}",
        "batches in all": "" if row.times is None else f"{row.batches * row.times:,}",
    }


def _headline(plan: Plan) -> str:
    if not plan.updates:
        return f"no training, one evaluation, on {plan.device}"
    return f"{counted(plan.updates - plan.first_update, 'update')} on {plan.device}"


def _training(plan: Plan) -> dict[str, str]:
    sizes = ", ".join(f"{key} {size:,}" for key, size in plan.datasets.items())
    lines = {"samples": sizes, "model": f"{plan.parameters:,} parameters, {plan.trainable:,} trainable"}
    if plan.recomputed:
        lines["recomputed"] = f"{counted(len(plan.recomputed), 'module')}: {listed(plan.recomputed, _SHOWN_MODULES)}"
    lines["loss"] = plan.loss
    lines["threads"] = f"{plan.threads}: {plan.threads_reason}"
    if plan.residence:
        lines["data"] = plan.residence
    if not plan.updates:
        return lines
    left_out = f"; {counted(plan.samples_left_out, 'sample')} left out" if plan.samples_left_out else ""
    lines["update"] = f"{counted(plan.effective_batch_size, 'sample')} = {_batches(plan)}"
    if plan.form is not None:
        lines["form"] = "; ".join([plan.form, *(f"not {name}: {why}" for name, why in plan.slower_because.items())])
    lines["epoch"] = counted(plan.updates_per_epoch, "update") + left_out
    lines["whole run"] = " = ".join(
        (counted(plan.updates, "update"), counted(plan.epochs, "epoch"), counted(plan.samples, "sample"))
    )
    if plan.first_update:
        lines["starts after"] = counted(plan.first_update, "update")
    if plan.seconds is not None:
        lines["takes"] = f"{duration_in_words(plan.seconds)} for the updates; evaluation and checkpoints come on top"
    return lines


def _batches(plan: Plan) -> str:
    ranks = "" if plan.ranks == 1 else f"{plan.ranks} ranks x "
    steps = counted(plan.accumulation_steps, "accumulation step")
    return f"{ranks}{steps} of {counted(plan.batch_size, 'sample')}"


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


def _shortened(updates: Sequence[int]) -> str:
    shown = [f"{update:,}" for update in updates]
    if len(shown) > _SHOWN_UPDATES:
        shown = [*shown[: _SHOWN_UPDATES - 2], "…", shown[-1]]
    return ", ".join(shown) + (f" ({len(updates):,} in all)" if len(updates) > _SHOWN_UPDATES else "")
