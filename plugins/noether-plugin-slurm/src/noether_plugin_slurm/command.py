"""The command `noether slurm-submit`."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from noether.cli.options import Spec, SpecOptions, run_id_for, verb, verbs
from noether.cli.output import print_facts

app = verbs()

RunId = Annotated[
    str | None,
    typer.Option(
        help="Name of the run folder; a run that exists continues.", show_default="<name>-<date>-<time>-<4 hex>"
    ),
]
Local = Annotated[bool, typer.Option("--local", help="Run the job in processes of this machine, without Slurm.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the job and submit nothing.")]


@verb(app, "slurm-submit", example="noether slurm-submit specs/experiment.toml -s slurm.partition=gpu")
def slurm_submit(
    spec: Spec,
    options: SpecOptions,
    run_id: RunId = None,
    local: Local = False,
    dry_run: DryRun = False,
) -> None:
    """Submit the run that SPEC describes to Slurm; it is requeued with its checkpoint until it has finished."""
    import noether
    from noether_plugin_slurm.submit import SlurmTable, command_of, submit

    loaded = noether.load_spec(spec, options.overrides, plugins=options.plugins, trust=options.trusted)
    table = getattr(loaded.spec, "slurm", None) or SlurmTable()
    run_id = run_id_for(loaded, run_id)
    command = command_of(spec, run_id, options.arguments(), table)
    if dry_run:
        parameters = {name: value for name, value in table.parameters(run_id).items() if value is not None}
        print_facts([*parameters.items(), ("attempts", table.max_attempts), ("command", shlex.join(command))])
        return
    job = submit(command, run_id, table, "local" if local else None)
    print_facts(
        [
            ("job", job.job_id),
            ("run", run_id),
            ("log", job.paths.stdout),
            ("cancel", f"kill {job.job_id}" if local else f"scancel {job.job_id}"),
        ]
    )
