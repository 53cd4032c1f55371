"""A stand-in for Slurm: `sbatch`, `srun` and `scontrol requeue` as scripts that run the job on this machine.

It shows that the text for sbatch is right and that submitit asks for a requeue in Slurm's way; it is no cluster.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import submitit
import tomli_w
from noether_plugin_slurm.attempt import Attempt
from noether_plugin_slurm.submit import SlurmTable, command_of, submit

from noether.errors import UsageError
from noether.testing import tiny_spec

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
SRUN_ON_TWO_NODES = """#!/bin/bash
while [ "${{1:0:2}}" = "--" ]; do
  case "$1" in --output|--error) shift 2;; *) shift;; esac
done
export SLURM_JOB_NUM_NODES=2 SLURM_NTASKS=2 SLURM_JOB_NODELIST=localhost
SLURM_NODEID=1 SLURM_PROCID=1 "$@" &
SLURM_NODEID=0 SLURM_PROCID=0 "$@"
code=$?
wait
exit $code
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


PREEMPT = """
import os, signal, time
from pathlib import Path

from noether.core.callbacks import CallbackBase


class Preempt(CallbackBase):
    \"\"\"Preempts the job at update 7: on the first node, the launcher of rank 0 is a child of the job's process.\"\"\"

    def track_after_update_step(self, *, update_counter, **_):
        once = Path("once")
        if update_counter.update != 7 or os.environ["RANK"] != "0" or once.exists():
            return
        once.touch()
        launcher = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2]
        os.kill(int(launcher.split()[1]), signal.SIGUSR2)
        while self.trainer.signals.heard is None:
            time.sleep(0.01)
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


def test_a_job_of_several_nodes_starts_torchrun_on_each(slurm: Path):
    table = SlurmTable(nodes=2, ranks=4)
    command = command_of(Path("spec.toml"), "wing", ["-s", "seed=1"], table)
    assert command[1:7] == ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "4"]
    assert command[7:11] == ["-m", "noether", "run", str(slurm / "spec.toml")]
    submit(command, "wing", table)
    text = (slurm / "slurm" / "wing" / "4242_submission.sh").read_text()
    assert "#SBATCH --nodes=2\n" in text and "#SBATCH --ntasks-per-node=1\n" in text and "\nsrun " in text


@pytest.mark.long
def test_a_job_of_two_nodes_is_requeued_and_goes_on(slurm: Path):
    (slurm / "bin" / "srun").write_text(SRUN_ON_TWO_NODES.format())
    module = f"preempt_{slurm.name}"
    (slurm / f"{module}.py").write_text(PREEMPT)
    (slurm / "pyproject.toml").touch()
    spec = tiny_spec(trainer={"callbacks": [{"kind": f"{module}.Preempt"}]}, output="runs")
    (slurm / "spec.toml").write_text(tomli_w.dumps(spec))
    table = SlurmTable(nodes=2)
    executor = submitit.AutoExecutor(slurm / "job", cluster="slurm")
    executor.update_parameters(**table.parameters("job"))
    command = command_of(Path("spec.toml"), "job", [], table)
    executor.submit(Attempt(command, slurm, 3, patience=0.1, nodes=2))
    environment = {**os.environ, "SLURM_JOB_ID": "4242"}
    script = ["bash", slurm / "job" / "4242_submission.sh"]
    subprocess.run(script, env=environment, check=False, capture_output=True)
    assert (slurm / "scontrol").read_text() == "requeue 4242\n"
    subprocess.run(script, env=environment, check=True, capture_output=True)
    attempts = [(slurm / "runs" / "job" / "attempts" / f"000{number}.json").read_text() for number in (1, 2)]
    assert '"KILLED"' in attempts[0] and '"step-000000000007"' in attempts[1] and '"FINISHED"' in attempts[1]


def test_a_job_that_slurm_refuses_is_a_user_error(slurm: Path):
    (slurm / "bin" / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(UsageError) as caught:
        submit([sys.executable, "-c", ""], "wing", SlurmTable(partition="nowhere"))
    assert "invalid partition" in str(caught.value)
