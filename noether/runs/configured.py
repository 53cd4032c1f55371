"""The run plugins of a spec, loaded, and the spec as they have configured it."""

from __future__ import annotations

from collections.abc import Iterable

from noether.kernel.dispatch import compile_dispatch
from noether.kernel.participant import Participant, load_plugins
from noether.spec.model import RunSpec


def configured(spec: RunSpec, plugins: Iterable[str] = ()) -> list[Participant]:
    """Load the run plugins, let them configure the spec, and return them.

    Args:
        spec: A valid spec; `plugins` are added to those that it uses.
        plugins: Names of further run plugins.

    Raises:
        PluginError: A plugin is not installed, or one of its hooks cannot work.
    """
    spec.plugins.use = list(dict.fromkeys([*spec.plugins.use, *plugins]))
    participants = load_plugins(spec.plugins.use)
    if (configure := compile_dispatch(participants).configure_spec) is not None:
        configure(spec=spec)
    return participants
