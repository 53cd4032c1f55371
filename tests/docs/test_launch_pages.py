"""The pages on several ranks: the callback that adds up, the job for Kubernetes and the script for Ray."""

import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import typer
import yaml

import noether
from noether.cli.main import app
from noether.testing.builders import tiny_spec

EVICTION = '''
"""Evicts the master pod once, beside update 7: its torchrun, the parent of rank 0, gets SIGTERM."""

import os, signal, time
from pathlib import Path

from noether.core.callbacks import CallbackBase


class Eviction(CallbackBase):
    def track_after_update_step(self, *, update_counter, **_):
        once = Path("evicted")
        if update_counter.update != 7 or os.environ["RANK"] != "0" or once.exists():
            return
        once.touch()
        os.kill(os.getppid(), signal.SIGTERM)
        while self.trainer.signals.heard is None:
            time.sleep(0.01)
'''


def set_by_operator(job: dict[str, Any], role: str, port: int, host: str) -> dict[str, str]:
    """Return the variables of a pod as `setPodEnv` of the training operator 1.9 does, for one pod of each role."""
    replicas = sum(part["replicas"] for part in job["spec"]["pytorchReplicaSpecs"].values())
    rank, of_each = str(["Master", "Worker"].index(role)), job["spec"]["nprocPerNode"]
    return {
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        "PET_MASTER_ADDR": host,
        "PET_MASTER_PORT": str(port),
        "WORLD_SIZE": str(replicas * int(of_each)),
        "RANK": rank,
        "PET_NODE_RANK": rank,
        "PET_NPROC_PER_NODE": of_each,
        "PET_NNODES": str(replicas),
    }


@pytest.fixture
def job(page) -> dict[str, Any]:
    """The job of the page."""
    (block,) = page["train-on-kubernetes.md"].blocks("yaml")
    return yaml.safe_load(block.text)


@pytest.fixture
def project_of_job(project: Path) -> Path:
    """A project with the spec that the job names: tiny, with an eviction."""
    (project / "specs").mkdir()
    (project / "pyproject.toml").touch()
    (project / f"eviction_{project.name}.py").write_text(EVICTION)
    spec = tiny_spec(trainer={"callbacks": [{"kind": f"eviction_{project.name}.Eviction"}]})
    (project / "specs/experiment.toml").write_text(tomli_w.dumps(spec))
    return project


def test_the_command_of_the_job_is_one_that_noether_knows(job: dict[str, Any]):
    pods = job["spec"]["pytorchReplicaSpecs"].values()
    commands = [pod["template"]["spec"]["containers"][0]["command"] for pod in pods]
    assert commands[0] == commands[1] and commands[0][:3] == ["torchrun", "-m", "noether"]
    run = typer.main.get_command(app).commands["run"].make_context("run", [], resilient_parsing=True).command
    understood = run.make_context("run", commands[0][4:]).params
    assert (understood["run_id"], understood["resume"]) == ("terrain", "auto")
    assert {pod["restartPolicy"] for pod in pods} == {"OnFailure"}
    for pod in pods:
        spec = pod["template"]["spec"]
        (shutdown,) = [one["value"] for one in spec["containers"][0]["env"]]
        assert int(shutdown) < spec["terminationGracePeriodSeconds"]
        mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        assert f"output={mounts['runs']}" in commands[0]


@pytest.mark.long
def test_a_job_of_two_pods_survives_an_eviction(job: dict[str, Any], project_of_job: Path):
    job["spec"]["nprocPerNode"] = "1"
    runs = project_of_job / "volume"
    assert started(job, project_of_job, runs) == [1, 1]
    assert started(job, project_of_job, runs) == [0, 0]
    first, second = [path.read_text() for path in sorted((runs / "terrain/attempts").iterdir())]
    assert '"KILLED"' in first and '"step-000000000007"' in second and '"FINISHED"' in second


def started(job: dict[str, Any], folder: Path, runs: Path) -> list[int]:
    """Start the pods of a job as processes, and return their exit codes."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    pods = []
    for role, part in job["spec"]["pytorchReplicaSpecs"].items():
        command = part["template"]["spec"]["containers"][0]["command"][1:]
        command = [word.replace("/runs", str(runs)) for word in command]
        variables = set_by_operator(job, role, port, "localhost")
        pods.append(
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *command],
                cwd=folder,
                env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    return [pod.wait() for pod in pods]


@pytest.mark.long
def test_the_script_for_ray_trains_a_run(page, project: Path):
    pytest.importorskip("ray.train", reason="Ray is not installed")
    (project / "spec.toml").write_text(tomli_w.dumps(tiny_spec()))
    (block,) = page["train-with-ray.md"].blocks("python")
    script = block.text.replace("/project/specs/experiment.toml", str(project / "spec.toml"))
    script = script.replace("/shared", str(project)).replace(
        "ray.init()", "ray.init(num_cpus=2, include_dashboard=False)"
    )
    (project / "train_with_ray.py").write_text(script)
    subprocess.run([sys.executable, "train_with_ray.py"], cwd=project, check=True, capture_output=True)
    run = project / "runs" / "terrain"
    assert len(noether.load_run(run).metrics) > 0 and (run / "log.rank-00001.txt").exists()


def seen_after(updates: int, spec: Path) -> float:
    """Train on to an update, on the ranks that there are, and return the samples seen at the last interval."""
    changes = {"trainer.max_updates": updates}
    outcome = noether.run(spec, set=changes, run_id="seen", resume="auto", allow_spec_change=True, quiet=True)
    return outcome.metrics["seen/samples"]


def test_the_samples_seen_are_those_of_all_ranks_and_go_on_in_one_process(page, project: Path, two_ranks, spec_file):
    how_to = page["train-on-several-ranks.md"]
    how_to.write_files(project)
    (callback,) = next(
        tables["trainer"]["callbacks"]
        for tables in (tomllib.loads(block.text) for block in how_to.blocks("toml"))
        if "callbacks" in tables.get("trainer", {})
    )
    del callback["every_n_epochs"]
    spec = spec_file(tiny_spec(trainer={"callbacks": [callback | {"every_n_updates": 5}]}))
    assert two_ranks(seen_after, 7, spec) == [5 * 4] * 2
    assert seen_after(12, spec) == 10 * 4
