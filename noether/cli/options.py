"""Arguments and options that several verbs share, and the decorator that registers a verb."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from noether.cli.interrupts import CTRL_C, INTERRUPTED
from noether.cli.output import say
from noether.errors import NoetherError, notes_of

if TYPE_CHECKING:
    from noether.spec.load import LoadedSpec


def completed(of: str) -> Callable[[typer.Context, str], list[str]]:
    """Return the completion of a parameter, see `noether.cli.completion`, which is imported when a shell asks."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from noether.cli.completion import candidates

        return candidates(of, ctx, incomplete)

    return complete


def argument(metavar: str, help: str, of: str | None = None) -> Any:
    """Return an argument of a verb, without a default to show; `of` names its completion, see `completed`."""
    completion = None if of is None else completed(of)
    return typer.Argument(metavar=metavar, help=help, show_default=False, autocompletion=completion)


Spec = Annotated[Path, argument("SPEC", "The TOML file of the run.", "specs")]
RunArgument = Annotated[str, argument("RUN", "A run folder, or a run id below --output.", "runs")]
CHECKPOINT_NAMES = "The checkpoint: latest, last, best_model.<metric>, E…_U…_S…, or the name of its folder."
Checkpoint = Annotated[
    str,
    typer.Option("--checkpoint", metavar="NAME", help=CHECKPOINT_NAMES, autocompletion=completed("checkpoints")),
]
Output = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder that holds the runs.")]
Project = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="The folder with your own code that the run uses.", show_default="the current project"
    ),
]
Trusted = Annotated[
    list[str],
    typer.Option(
        "--trust",
        metavar="PACKAGE|PATH",
        help="Let dotted kinds import this package, or specs extend this file or folder outside of the project (a path "
        "has a /); may be repeated.",
        show_default=False,
    ),
]
AllowSpecChange = Annotated[
    bool, typer.Option("--allow-spec-change", help="Continue although the changed spec alters training.")
]
StrictCode = Annotated[
    bool, typer.Option("--strict-code", help="Refuse to continue if code, a plugin or a data file has changed.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings, errors and the last line only.")]
ShowTraceback = Annotated[
    bool, typer.Option("--traceback", help="Print the whole traceback of an error in a callback or model.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Like = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="The data set whose columns and own transforms the file has.",
        show_default="the first one beside train",
    ),
]
RUNS = Path("runs")


class SpecOptions(NamedTuple):
    """Values of `-s`, `--unset`, `-p` and `--trust`, which every verb that reads a spec takes.

    Attributes:
        overrides: Values of `-s` and `--unset`, in the order of the command line.
        plugins: Run plugins to use beside those of the spec.
        trusted: Packages that dotted kinds may import, and paths that specs may extend.
    """

    overrides: Sequence[str]
    plugins: Sequence[str]
    trusted: Sequence[str]

    def load(self, spec: Path | str, set: Mapping[str, Any] | None = None) -> LoadedSpec:
        """Return a spec with the options, and with further values over it."""
        from noether.spec.load import load_spec

        return load_spec(spec, self.overrides, set=set, plugins=self.plugins, trust=self.trusted)

    def arguments(self) -> list[str]:
        """Return the options as they were typed, for another command line."""
        from noether.spec.read.overrides import Unset

        pairs = [("--unset" if isinstance(override, Unset) else "-s", str(override)) for override in self.overrides]
        pairs += [("-p", plugin) for plugin in self.plugins]
        pairs += [("--trust", trusted) for trusted in self.trusted]
        return [text for pair in pairs for text in pair]


def _spec_options(
    context: typer.Context,
    overrides: Annotated[
        list[str],
        typer.Option(
            "-s",
            "--set",
            metavar="PATH=VALUE",
            help="Override a value of the spec, or append to a list with PATH+=VALUE; may be repeated.",
            show_default=False,
            autocompletion=completed("settings"),
        ),
    ] = [],
    unset: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="Remove a value of the spec, in its order among -s; may be repeated.",
            show_default=False,
            autocompletion=completed("keys"),
        ),
    ] = [],
    plugins: Annotated[
        list[str],
        typer.Option(
            "-p",
            "--plugin",
            metavar="PLUGIN",
            help="Use a run plugin; may be repeated.",
            show_default=False,
            autocompletion=completed("plugins"),
        ),
    ] = [],
    trusted: Trusted = [],
) -> SpecOptions:
    """Collect the options of a command line; their order decides which override wins."""
    from noether.spec.read.overrides import Unset

    given = {"overrides": iter(overrides), "unset": map(Unset, unset)}
    in_order = [next(given[name]) for name in context.meta[_ORDER] if name in given]
    return SpecOptions(in_order, plugins, trusted)


def run_id_for(loaded: LoadedSpec, given: str | None = None) -> str:
    """Return the id of a run that is to be started: the given one, else a new one.

    Args:
        loaded: The spec of the run.
        given: The id that a user gave.

    Raises:
        UsageError: if it cannot name a run folder.
    """
    from noether.runs.folder.run_folder import checked_run_id, new_run_id

    return new_run_id(loaded.spec.name) if given is None else checked_run_id(given, loaded.spec.output)


_ORDER = "noether.order"
_SIGNAL_BASE = 128  # a shell reports an end by signal n as 128 + n


def verbs(help: str | None = None) -> typer.Typer:
    """Return the app of a module of verbs: a group with this help, or without it a single verb."""
    return typer.Typer(cls=Group, help=help, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def verb(app: typer.Typer, name: str, *, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the verb `name`; a parameter of type `SpecOptions` becomes the options of its fields.

    Args:
        app: The group of the verb.
        name: The word to type.
        example: A command line, shown below the help.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, cls=_OrderedCommand, epilog=f"Example: {example}")(_with_spec_options(function))
        return function

    return register


def _with_spec_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return the verb with its `SpecOptions` parameter replaced by the options; typer reads them in its signature."""
    own = inspect.signature(function, eval_str=True).parameters
    taking = next((name for name, parameter in own.items() if parameter.annotation is SpecOptions), None)
    if taking is None:
        return _kept_from_ending(function)
    shared_options = inspect.signature(_spec_options, eval_str=True).parameters

    @wraps(function)
    def with_options(**values: Any) -> None:
        shared = {name: values.pop(name) for name in shared_options}
        _kept_from_ending(function)(**values, **{taking: _spec_options(**shared)})

    parameters = [
        shown.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.items()
        for shown in (shared_options.values() if name == taking else [parameter])
    ]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def _kept_from_ending(function: Callable[..., None]) -> Callable[..., None]:
    """Return the verb as a function that code named by a spec cannot end with `sys.exit`, even as a success.

    Ctrl-C ends it with the exit code of shells, 130.
    """

    @wraps(function)
    def kept(**values: Any) -> None:
        try:
            with CTRL_C:
                function(**values)
        except SystemExit as error:
            if isinstance(error.code, int) and error.code > _SIGNAL_BASE:  # a verb that a signal has stopped
                raise
            frame = traceback.extract_tb(error.__traceback__)[-1]
            told = NoetherError(f"the command was ended by sys.exit({error.code!r}) ({frame.filename}:{frame.lineno})")
            for note in notes_of(error):
                told.add_note(note)
            raise told from error
        except BaseException as stop:
            is_interrupt = isinstance(stop, KeyboardInterrupt)
            if not is_interrupt and not (CTRL_C.has_come and isinstance(stop, Exception)):
                raise
            if not hasattr(stop, "outcome"):  # a run has said more
                say("interrupted", to_stderr=True)
            raise SystemExit(INTERRUPTED) from None  # C code makes other errors of a KeyboardInterrupt

    return kept


class _UnsetOptions:
    """Leaves options that were not given as they are: typer would import pydantic to convert nothing, for 0.1 s.

    While a shell completes a word, it leaves the others as they were typed.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line; a required argument stands as it is, without braces."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]  # type: ignore[misc]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of a command or group."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of a class of typer
        for parameter in parameters:
            if "process_value" not in vars(parameter):
                parameter.process_value = partial(_value_of, parameter, parameter.process_value)
        return parameters


def _value_of(parameter: Any, convert: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    is_single = not getattr(parameter, "multiple", False) and parameter.nargs == 1
    if ctx.resilient_parsing:
        return value
    if value is not None or not is_single or parameter.required:
        return convert(ctx, value)
    return None if parameter.callback is None else parameter.callback(ctx, parameter, None)


class Group(_UnsetOptions, TyperGroup):
    """A group of verbs."""


class _OrderedCommand(_UnsetOptions, TyperCommand):
    """A command that keeps the order of its options, which `-s` and `--unset` depend on."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, and note their order in the context."""
        if ctx.resilient_parsing and args and args[-1].startswith("-"):  # its value is completed
            args = args[:-1]
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_ORDER] = [parameter.name for parameter in given]
        return super().parse_args(ctx, args)
