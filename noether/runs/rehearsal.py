"""A run that is built as a real one and leaves nothing behind: for looking at it, and for trying it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from noether.core.providers.path import PathProvider
from noether.kernel.participant import Participant
from noether.kernel.registry import use_registry
from noether.runs.assemble import Run, assemble
from noether.runs.configured import configured
from noether.runs.process_state import device_of, process_state
from noether.spec.load import LoadedSpec
from noether.training.state import RunParts

_CALLBACKS = logging.getLogger("noether.callbacks")


@contextmanager
def _quiet_callbacks() -> Iterator[None]:
    """Let nobody hear what callbacks log: it is about a training that does not take place."""
    silence, propagate = logging.NullHandler(), _CALLBACKS.propagate
    _CALLBACKS.addHandler(silence)
    _CALLBACKS.propagate = False
    try:
        yield
    finally:
        _CALLBACKS.propagate = propagate
        _CALLBACKS.removeHandler(silence)


@contextmanager
def rehearsal(loaded: LoadedSpec, plugins: Iterable[str] = (), *, extras: Iterable[Participant] = ()) -> Iterator[Run]:
    """Build everything of a run but its trackers, ready to train, its folder a temporary one.

    What its callbacks log is not heard.

    Args:
        loaded: A valid spec.
        plugins: Run plugins beside those that the spec uses.
        extras: Further participants in the hooks, called last.

    Raises:
        UsageError: Something in the spec cannot be built.
    """
    spec = loaded.spec.model_copy(deep=True)  # a plugin may configure it, and the run has it still before it
    with use_registry(loaded.registry), TemporaryDirectory(prefix="noether-") as folder, _quiet_callbacks():
        participants = configured(spec, plugins)
        with process_state(spec):
            paths = PathProvider(spec.output, spec.name)  # an initializer may take weights of another run there
            paths.run_path = Path(folder)
            run = assemble(spec, paths, device_of(spec.device), trackers=[])
            run.trainer.prepare(run.model, RunParts(run, [*participants, *extras], run.initializer))
            try:
                yield run
            finally:
                run.trainer.log_writer.close()
