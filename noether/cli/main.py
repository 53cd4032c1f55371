"""The entry of the command line: the verbs, those of plugins among them, and exit codes."""

from __future__ import annotations

import errno
import io
import logging
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from noether.cli.interrupts import CTRL_C
from noether.cli.options import Group
from noether.cli.output import print_error, say
from noether.config.secrets import MaskSecrets, masked_traceback
from noether.errors import NoetherError, StorageError, UsageError
from noether.kernel.entries import BUILT_IN, installed_commands, installed_entries
from noether.spec.errors.words import visible_lines

if TYPE_CHECKING:
    from noether.kernel.entries import Entry


BUILT_IN_VERBS = {
    "run": "Train the run that SPEC describes.",
    "resume": "Continue a run that stopped.",
    "eval": "Evaluate a checkpoint of RUN.",
    "predict": "Predict the fields for new samples with the model of RUN.",
    "check": "Validate SPEC without running it.",
    "plan": "Show what running SPEC would do.",
    "bench": "Measure what an update of SPEC costs, beside a bare loop.",
    "sweep": "Train SPEC with many values, and print the best first.",
    "lr-find": "Suggest the learning rate at which SPEC learns fastest.",
    "batch-find": "Suggest a batch size: fastest, or the largest that fits.",
    "verify-resume": "Check that an interrupted run ends with the same bytes.",
    "runs": "Look at runs: list, show, compare, report, delete.",
    "checkpoint": "Look after the checkpoints of a run.",
    "spec": "Look at specs and make them.",
    "data": "Look at the data of a spec.",
    "plugins": "Look at what is installed.",
    "tracker": "Deliver metrics that trackers missed.",
}
"""The built-in verbs, with their lines in the help: listing them imports none."""
_HOMES = {
    "resume": "run",
    "verify-resume": "run",
    "eval": "predict",
    "check": "plan",
    "lr-find": "find",
    "batch-find": "find",
}
"""Modules of verbs; the others are in the module of their name."""


class _BuiltIn(TyperCommand):
    """A built-in verb, or a group of them, whose module is imported when the verb is called."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the verb, and parse its arguments."""
        verb = str(self.name)
        command: Any = typer.main.get_command(import_module(f"noether.cli.{_HOMES.get(verb, verb)}").app)
        command = getattr(command, "commands", {}).get(verb, command)  # of a module of several verbs
        return command.make_context(info_name, args, parent, **extra)


class _PluginCommand(TyperCommand):
    """A verb of a plugin: a typer app, a click command or a function, imported when the verb is called."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, short_help=f"From {entry.origin}.", add_help_option=False)
        self.entry = entry

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Leave all arguments to the plugin's own parser."""
        ctx.args = list(args)
        return ctx.args  # type: ignore[no-any-return]

    def invoke(self, ctx: Any) -> None:
        """Import the verb and run it as a command of its own.

        Raises:
            PluginError: if the import fails, or the imported object cannot be called.
        """
        from noether.kernel.registry import active_registry

        target = active_registry().command(self.entry.qualified)
        command = target if callable(getattr(target, "main", None)) else typer.main.get_command(_as_app(target))
        try:
            with CTRL_C:
                command.main(args=ctx.args, prog_name=f"noether {self.name}")
        except Exception as error:
            error.add_note(f"raised by the command '{self.name}' of {self.entry.origin}")
            raise


class _Verbs(Group):
    """The built-in verbs and those of the entry-point group `noether.commands`; a built-in verb cannot be replaced."""

    def __init__(self, **settings: Any) -> None:
        commands = {name: _BuiltIn(name, help=line) for name, line in BUILT_IN_VERBS.items()}
        super().__init__(**settings | {"commands": commands})

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all verbs; a plugin's name that is taken is shown qualified, `x/name`."""
        entries = installed_commands()
        names = Counter([*self.commands, *(entry.name for entry in entries)])
        return [*self.commands, *(entry.name if names[entry.name] == 1 else entry.qualified for entry in entries)]

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; an error of its arguments, which may be names of a stranger's files, shows them escaped."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "format_message"):  # of typer
                vars(error)["message"] = visible_lines(str(vars(error)["message"]))
            raise

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb, or None; imports nothing.

        Raises:
            PluginError: if two plugins have a verb of this name.
        """
        if (found := self.commands.get(cmd_name)) is not None:
            return found
        if not any(cmd_name in (entry.name, entry.qualified) for entry in installed_commands()):
            return None
        from noether.kernel.registry import active_registry

        return _PluginCommand(cmd_name, active_registry().find("command", cmd_name))


app = typer.Typer(
    name="noether",
    cls=_Verbs,
    help="Train PyTorch models: a run is one TOML file, and every part of it is a plugin.",
    epilog="Example: noether run specs/experiment.toml -s trainer.max_epochs=5",
    no_args_is_help=True,
    rich_markup_mode=None,  # formatting help with rich would cost more than everything else together
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _as_app(target: Any) -> typer.Typer:
    if isinstance(target, typer.Typer):
        return target
    made = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    made.command()(target)
    return made


def _surroundings() -> Iterator[str]:
    """Yield the facts that a report of a defect needs beside the version: Python, torch, device and plugins."""
    yield f"python  {platform.python_version()} on {platform.platform(terse=True)}"
    import torch

    from noether.runs.process_state import device_of

    device = device_of("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    yield f"torch   {torch.__version__}, device {device.type} ({name})"
    entries = [*installed_entries(), *installed_commands()]
    origins = sorted({entry.origin for entry in entries if entry.distribution != BUILT_IN})
    yield f"plugins {', '.join(origins) or 'none'}"


def _print_version(wanted: bool) -> None:
    if wanted:
        import noether

        say(f"noether {noether.__version__}")
        for line in _surroundings():
            say(line)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions and exit.",
        ),
    ] = False,
) -> None:
    """Options before the verb."""


def _open_missing_streams() -> None:
    """Open the null device for each standard stream that is closed, as `>&-` and daemons leave them; print any text.

    A file that a run opens would get the stream's number otherwise, and everything that libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that it cannot encode is printed as stderr does
        sys.stdout.reconfigure(errors="backslashreplace")


_COMPLETING = "_NOETHER_COMPLETE"
"""Environment variable by which a shell asks for the words that may come next."""
_REFUSALS = {errno.ENAMETOOLONG: UsageError, errno.ENOSPC: StorageError, errno.EDQUOT: StorageError}
"""Errors of the system that are no defect, wherever they are raised."""


def show_log_visibly() -> None:
    """Let messages of no run, which logging prints by itself, be escaped and masked as those of a run are."""
    from noether.runs.console import VisibleFormatter

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter())
        if not any(isinstance(known, MaskSecrets) for known in logging.lastResort.filters):
            logging.lastResort.addFilter(MaskSecrets())


def _exit_code(error: NoetherError) -> int:
    if "noether.runs" not in sys.modules:  # no run was begun
        return error.exit_code
    from noether.runs.outcome import exit_code

    return exit_code(error.exit_code)


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    _open_missing_streams()
    if _COMPLETING in os.environ:
        with suppress(Exception):  # a shell shows what it gets between the words of the user
            app()
        sys.exit(1)
    show_log_visibly()
    try:
        app()
    except NoetherError as error:
        print_error(error)
        sys.exit(_exit_code(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            refusal = _REFUSALS[error.errno](f"{error.strerror}: {error.filename or 'standard output'}")
            if error.filename is None:  # buffered text would fail again at the exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            print_error(refusal)
            sys.exit(refusal.exit_code)
        say(masked_traceback(error), end="", to_stderr=True)  # a defect: shown as Python does, but without secrets
        sys.exit(1)
