"""The entry of the command line: dispatches verbs and turns errors into one clear message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from noether.cli import check, checkpoint, evaluate, plan, plugins, resume, run, spec, tracker, verify_resume
from noether.cli.options import CommandWithOverrides
from noether.core.utils.secrets import mask, masked_traceback
from noether.errors import NoetherError

app = typer.Typer(
    name="noether",
    help="Train PyTorch models: a run is one TOML file, and everything that it is made of is a plugin.",
    epilog="Example: noether run specs/experiment.toml -s trainer.max_epochs=5",
    no_args_is_help=True,
    rich_markup_mode=None,  # formatting help with rich would cost more than everything else together
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", cls=CommandWithOverrides, short_help="Train what a spec describes.", epilog=run.EXAMPLE)(run.run)
app.command("resume", cls=CommandWithOverrides, short_help="Continue a run.", epilog=resume.EXAMPLE)(resume.resume)
app.command("eval", short_help="Evaluate a checkpoint of a run.", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("check", cls=CommandWithOverrides, short_help="Validate a spec without running it.", epilog=check.EXAMPLE)(
    check.check
)
app.command("plan", cls=CommandWithOverrides, short_help="Say what running a spec would do.", epilog=plan.EXAMPLE)(
    plan.plan
)
app.command(
    "verify-resume",
    cls=CommandWithOverrides,
    short_help="Check that a run which is interrupted ends as if it had not been.",
    epilog=verify_resume.EXAMPLE,
)(verify_resume.verify_resume)
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(spec.app, name="spec")
app.add_typer(plugins.app, name="plugins")
app.add_typer(tracker.app, name="tracker")


def _print_version(wanted: bool) -> None:
    if wanted:
        import noether

        print(f"noether {noether.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options before the verb."""


def main() -> None:
    """Run the command line; ends the process with the exit code of what happened."""
    try:
        app()
    except NoetherError as error:
        tell(error)
        sys.exit(error.exit_code)
    except Exception as error:  # a defect: shown as Python does, but without secrets
        print(masked_traceback(error), end="", file=sys.stderr)
        sys.exit(1)


def tell(error: NoetherError) -> None:
    """Print an error as a user meets it: what was found, and what to type."""
    from noether.spec.errors.problem import InvalidSpecError

    notes = [f"  note: {note}" for note in getattr(error, "__notes__", [])]
    if isinstance(error, InvalidSpecError):
        lines = [error.rendered(color=sys.stderr.isatty() and not os.environ.get("NO_COLOR")), *notes]
    else:
        code = f"[{error.code}]" if error.code else ""
        lines = [f"error{code}: {error.message}", *notes, *([f"  help: {error.hint}"] if error.hint else [])]
    text = mask("\n".join(lines))
    print(text if isinstance(error, InvalidSpecError) else harmless(text), file=sys.stderr)  # one is escaped already


def harmless(text: str) -> str:
    """Return a message, which may quote anything, so that a terminal obeys nothing in it."""
    from noether.spec.errors.words import visible

    return "\n".join(map(visible, text.split("\n")))
