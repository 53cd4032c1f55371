"""`check --deep`: build everything a spec names, and let it make two updates and one save in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO

from noether.checkpoint.folder import read_checkpoint
from noether.errors import NoetherError
from noether.kernel.participant import Participant
from noether.runs.assemble import Run
from noether.runs.describe import describe
from noether.runs.dry_batches import TwoUpdates, evaluation_problems, forward_problems
from noether.runs.rehearsal import rehearsal
from noether.spec.interval_checks import interval_findings
from noether.spec.load import LoadedSpec
from noether.spec.placing import located
from noether.spec.problem import InvalidSpecError, Problem

_SIGNAL_BASE = 128


def deep_check(loaded: LoadedSpec, plugins: Iterable[str] = ()) -> list[Problem]:
    """Return what goes wrong when everything is built, used on one batch, and trained for two updates.

    Nothing is left behind: the run folder is a temporary one, and trackers are not built. A run that only evaluates
    (a limit of zero) does so completely.

    Args:
        loaded: A valid spec.
        plugins: Run plugins beside those that the spec uses.
    """
    short = TwoUpdates()
    extra = Participant("noether-deep-check", "deep-check", short, is_plugin=True)
    try:
        with redirect_stdout(StringIO()), rehearsal(loaded, plugins, extras=[extra]) as run:
            return _sizes(run) or forward_problems(run) or _trained(run, short)
    except Exception as error:
        return [_problem("the run cannot be built", error)]


def check_deeply(loaded: LoadedSpec, plugins: Iterable[str] = ()) -> None:
    """Do a `deep_check`.

    Raises:
        InvalidSpecError: Something goes wrong; the error shows all of it, with its places.
    """
    if problems := deep_check(loaded, plugins):
        raise InvalidSpecError(located(problems, loaded.origins), origin=loaded.origin)


def _sizes(run: Run) -> list[Problem]:
    """What only the sizes of the data tell: empty data sets, and intervals that never fire."""
    findings = interval_findings(run.spec, run.trainer.update_counter, all_units=True)
    return [*evaluation_problems(run), *(problem for problem, certain in findings if certain)]


def _trained(run: Run, short: TwoUpdates) -> list[Problem]:
    try:
        run.trainer.train(run.model)
    except Exception as error:
        problems = [*short.problems, _problem("the first two updates fail", error)]
    else:
        problems = [*short.problems, *_saved(run)]
    if run.trainer.signals.received is not None:
        raise SystemExit(_SIGNAL_BASE + run.trainer.signals.received)
    return problems


def _saved(run: Run) -> list[Problem]:
    folder = run.trainer.checkpoint_writer.last_committed
    if folder is None:
        return []  # a run that only evaluates saves nothing
    try:
        read_checkpoint(folder)
    except NoetherError as error:
        return [_problem("the checkpoint cannot be read back", error)]
    return []


def _problem(what: str, error: Exception) -> Problem:
    return Problem((), f"{what}: {describe(error)}", error.hint if isinstance(error, NoetherError) else None)
