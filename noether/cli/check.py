"""`noether check`: validate a spec without running it."""

from __future__ import annotations

from noether.cli.options import Overrides, Plugins, Spec, Trusted

EXAMPLE = "Example: noether check specs/experiment.toml -s trainer.precision=bf16"


def check(
    spec: Spec,
    overrides: Overrides = [],  # noqa: B006  # typer copies it
    plugins: Plugins = [],  # noqa: B006
    trusted: Trusted = [],  # noqa: B006
) -> None:
    """Validate SPEC without running it: every key, kind and value, all problems at once.

    Exit codes: 0 valid, 2 not.
    """
    from noether.kernel.plugins import load_plugins
    from noether.kernel.registry import use_registry
    from noether.spec.load import load_spec

    loaded = load_spec(spec, overrides, trusted=trusted)
    with use_registry(loaded.registry):
        load_plugins([*loaded.spec.plugins.use, *plugins])
    print(f"{spec}: valid")
