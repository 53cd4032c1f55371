"""`noether run`: train what a spec describes."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from noether.cli.options import AllowSpecChange, Overrides, Plugins, Spec, Trusted, Unset, in_order
from noether.config.secrets import mask, masked_traceback
from noether.core.utils.shown_path import shown_path
from noether.errors import NoetherError

if TYPE_CHECKING:
    from noether.runs.outcome import Outcome

EXAMPLE = "Example: noether run specs/experiment.toml -s trainer.max_epochs=5 --run-id first-try"


def run(
    ctx: typer.Context,
    spec: Spec,
    overrides: Overrides = [],
    unset: Unset = [],
    run_id: Annotated[
        str | None,
        typer.Option(help="Name of the run's folder.", show_default="<name>-<date>-<time>-<4 hex>"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none|NAME",
            help="What to do where the run of --run-id exists: auto starts it or continues it, none moves it aside and "
            "starts anew, and the name of a checkpoint continues from there.",
            show_default="an error",
        ),
    ] = None,
    allow_spec_change: AllowSpecChange = False,
    plugins: Plugins = [],
    trusted: Trusted = [],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
    show_traceback: Annotated[
        bool,
        typer.Option("--traceback", help="Show where in the code an error of a callback or model arose."),
    ] = False,
    trace_hooks: Annotated[
        bool,
        typer.Option("--trace-hooks", help="Print each call of a hook to stderr, with its callback and its time."),
    ] = False,
) -> None:
    """Train what SPEC describes, and keep everything about it in a folder of its own.

    Exit codes: 0 done, 1 failed, 2 wrong spec or usage, 3 no valid checkpoint to continue from, 4 not finite, 143
    or 130 stopped by a signal.
    """
    import noether

    overrides = in_order(ctx, overrides, unset)
    try:
        outcome = noether.run(
            spec,
            overrides=overrides,
            run_id=run_id,
            resume=resume,
            allow_spec_change=allow_spec_change,
            plugins=plugins,
            trusted=trusted,
            quiet=quiet,
            trace_hooks=trace_hooks,
        )
    except NoetherError as error:
        if show_traceback:
            print(masked_traceback(error), file=sys.stderr)
        raise
    end(outcome, show_traceback=show_traceback)


def end(outcome: Outcome, *, show_traceback: bool) -> NoReturn:
    """End the command as the run has ended, telling why where it failed."""
    if outcome.error is not None and outcome.status == "FAILED":
        _tell(outcome, show_traceback=show_traceback)
    raise typer.Exit(outcome.exit_code)


def _tell(outcome: Outcome, *, show_traceback: bool) -> None:
    from noether.cli.main import harmless, tell

    error = outcome.error
    assert error is not None
    if show_traceback:
        print(masked_traceback(error), end="", file=sys.stderr)
    elif isinstance(error, NoetherError):
        tell(error)
    else:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        lines = [f"error: {type(error).__name__}: {error}{where}"]
        lines += [f"  note: {note}" for note in getattr(error, "__notes__", [])]
        log = shown_path(outcome.run_dir / "log.txt")
        lines.append(f"  help: the whole traceback is in {log}, and with --traceback here")
        print(harmless(mask("\n".join(lines))), file=sys.stderr)
