"""The verb keeps the contract of commands, with its table in a spec."""

from pathlib import Path

from noether.testing import CommandContract


class TestSlurmSubmit(CommandContract):
    config = "slurm-submit"
    table = "slurm"
    arguments = (str(Path(__file__).parents[1] / "specs" / "smoke.toml"), "--dry-run", "-s", f"{table}.partition=gpu")
