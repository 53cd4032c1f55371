"""A stand-in for Slurm: `sbatch`, `srun` and `scontrol requeue` as scripts that run the job on this machine.

It shows that the text for sbatch is right and that submitit asks for a requeue in Slurm's way; it is no cluster.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from noether_plugin_slurm.submit import submit
from noether_plugin_slurm.table import SlurmTable

from noether.errors import UsageError

SBATCH = """#!/bin/bash
echo "$1" > {folder}/script
echo "Submitted batch job 4242"
"""
SRUN = """#!/bin/bash
while [ "${{1:0:2}}" = "--" ]; do
  case "$1" in --output|--error) shift 2;; *) shift;; esac
done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> {folder}/scontrol
"""
COMMAND = """
import os, signal, sys, time
from pathlib import Path

signal.signal(signal.SIGHUP, lambda number, frame: sys.exit(129))
first = not Path("first").exists()
Path("first").touch()
if first:
    os.kill(os.getppid(), signal.SIGUSR2)
    while True:
        time.sleep(0.01)
Path("finished").touch()
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the scripts on the path, and work in the folder."""
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        script = tmp_path / "bin" / name
        script.write_text(text.format(folder=tmp_path))
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_options_become_those_of_sbatch(slurm: Path):
    table = SlurmTable(
        partition="gpu", account="team", qos="high", constraint="a100", time_min=90, gpus=1, cpus=4, mem_gb=32,
        signal_s=180, setup=["module load cuda"], sbatch={"reservation": "week"},
    )  # fmt: skip
    job = submit([sys.executable, "-c", ""], "wing", table)
    assert job.job_id == "4242"
    text = (slurm / "slurm" / "wing" / "4242_submission.sh").read_text()
    for option in (
        "job-name=wing", "partition=gpu", "account=team", "qos=high", "constraint=a100", "time=90", "gpus-per-node=1",
        "cpus-per-task=4", "mem=32GB", "signal=USR2@180", "reservation=week", "nodes=1", "ntasks-per-node=1",
        "open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH --{option}\n" in text, option
    assert text.index("module load cuda") < text.index("srun")


def test_a_job_that_is_announced_its_end_is_requeued_with_scontrol(slurm: Path):
    (slurm / "command.py").write_text(COMMAND)
    submit([sys.executable, "command.py"], "wing", SlurmTable())
    environment = {**os.environ, "SLURM_JOB_ID": "4242"}
    script = slurm / "slurm" / "wing" / "4242_submission.sh"
    subprocess.run(["bash", script], env=environment, check=False, capture_output=True)
    assert (slurm / "scontrol").read_text() == "requeue 4242\n"
    assert not (slurm / "finished").exists()
    subprocess.run(["bash", script], env=environment, check=True, capture_output=True)  # as Slurm does, in its time
    assert (slurm / "finished").exists()


def test_a_job_that_slurm_refuses_is_a_user_error(slurm: Path):
    (slurm / "bin" / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(UsageError) as caught:
        submit([sys.executable, "-c", ""], "wing", SlurmTable(partition="nowhere"))
    assert "invalid partition" in str(caught.value)
