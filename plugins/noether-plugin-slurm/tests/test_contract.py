"""The verb keeps the contract of commands."""

from pathlib import Path

from noether.testing import CommandContract


class TestSlurmSubmit(CommandContract):
    config = "slurm-submit"
    arguments = (str(Path(__file__).parents[1] / "specs" / "smoke.toml"), "--dry-run")
