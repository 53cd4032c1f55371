"""Real launchers: torchrun's agents on this machine, and processes that have formed their group themselves."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

AGENT = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--local-addr", "localhost"]


@dataclass(frozen=True)
class Ended:
    """The end of a process, and what it printed."""

    code: int
    printed: str


@pytest.fixture
def spec_file(tiny_spec: dict[str, Any], workplace: Path) -> Path:
    """The tiny spec as a file, with data by absolute paths: the folders of several machines have the same."""
    for part in tiny_spec["datasets"].values():
        part["path"] = str(workplace / part["path"])
    path = workplace / "spec.toml"
    path.write_text(tomli_w.dumps(tiny_spec))
    return path


@pytest.fixture
def processes(workplace: Path) -> Callable[[list[list[str]], list[Path], list[dict[str, str]]], list[Ended]]:
    """Run processes of Python beside each other, each with arguments, a working folder and an environment."""

    def run(arguments: list[list[str]], folders: list[Path], environments: list[dict[str, str]]) -> list[Ended]:
        started = []
        for number, (own, folder, environment) in enumerate(zip(arguments, folders, environments, strict=True)):
            with (workplace / f"printed-{number}").open("w") as printed:
                variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
                command = [sys.executable, *own]
                started.append(subprocess.Popen(command, cwd=folder, env=variables, stdout=printed, stderr=printed))
        codes = [process.wait() for process in started]
        return [Ended(code, (workplace / f"printed-{number}").read_text()) for number, code in enumerate(codes)]

    return run


@pytest.fixture
def machines(spec_file: Path, workplace: Path, processes: Callable[..., list[Ended]]) -> Callable[..., list[Ended]]:
    """Run `noether` by torchrun on two machines: two agents, each with the spec in a folder of its own."""

    def run(first: str, second: str, *arguments: str, options: tuple[str, ...] = ()) -> list[Ended]:
        folders = [workplace / first, workplace / second]
        for folder in folders:
            folder.mkdir(exist_ok=True)
            (folder / "spec.toml").write_text(spec_file.read_text())
        with socket.create_server(("localhost", 0)) as server:
            port = server.getsockname()[1]
        chosen = options or ("--master-addr", "localhost", "--master-port", str(port))
        place = [option.replace("PORT", str(port)) for option in chosen]
        commands = [
            [*AGENT, "--node-rank", str(node), *place, "-m", "noether", *arguments] for node in range(len(folders))
        ]
        return processes(commands, folders, [{"NOETHER_RANK_TIMEOUT_S": "60"}] * 2)

    return run
