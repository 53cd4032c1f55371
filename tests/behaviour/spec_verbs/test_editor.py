"""An editor completes keys and kinds of a spec: a language server for TOML with the schema, asked as an editor asks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import TOMBI

SPEC = """name = "a"
[trainer]
kind = "weighted-loss"
max
[model]
kind = \n"""
KINDS = """[trainer]
kind = "weighted-loss"
[[trainer.callbacks]]
kind = "ema"

[datasets.train]
kind = "terrain"

[model.optimizer]
kind = "SGD"
\n"""


class Server:
    """The language server as a process, for one file."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "HOME": str(folder)}
        self.process = subprocess.Popen(
            [str(TOMBI), "lsp", "--offline", "--no-cache"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
        )
        self.folder = folder
        self.ask("initialize", {"processId": None, "rootUri": folder.as_uri(), "capabilities": {}})
        self.send({"method": "initialized", "params": {}})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        size = 0
        while line := self.process.stdout.readline().strip():
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        return dict(json.loads(self.process.stdout.read(size)))

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        self.send({"id": method, "method": method, "params": params})
        while (message := self.receive()).get("id") != method or "method" in message:
            if "id" in message and "method" in message:  # the server asks, too
                self.send({"id": message["id"], "result": None})
        return message["result"]

    def opened(self, text: str) -> str:
        """Open a file with a text, and return its address."""
        uri = (self.folder / "spec.toml").as_uri()
        document = {"uri": uri, "languageId": "toml", "version": 1, "text": text}
        self.send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        return uri

    def offered(self, uri: str, line: int, column: int) -> list[str]:
        """Return the labels that are offered at a place."""
        place = {"line": line, "character": column}
        found = None
        while found is None:  # it has not read the file yet
            found = self.ask("textDocument/completion", {"textDocument": {"uri": uri}, "position": place})
        return [one["label"] for one in (found if isinstance(found, list) else found["items"])]


@pytest.fixture
def offered(schema_file: Path, tmp_path: Path) -> Iterator[Callable[[str, int], set[str]]]:
    """Return what an editor offers at the end of a line of a spec, whose first line is line 1."""
    if TOMBI is None:
        pytest.skip("tombi, the TOML linter, is not installed: pip install tombi")
    server = Server(tmp_path)

    def offer(spec: str, line: int) -> set[str]:
        text = f"#:schema {schema_file}\n{spec}"
        return set(server.offered(server.opened(text), line, len(text.splitlines()[line])))

    yield offer
    server.process.kill()
    server.process.communicate()


def test_an_editor_completes_keys_of_a_table_and_kinds_of_a_role(offered):
    assert {"max_epochs", "max_updates", "max_samples"} <= offered(SPEC, 4)
    assert {'"cnn"', '"mlp"'} <= offered(SPEC, 6)


@pytest.mark.parametrize(
    ("line", "own", "of_others"),
    [(5, "model_paths", "patience"), (8, "max_samples", "delimiter"), (11, "nesterov", "betas")],
)
def test_keys_of_other_kinds_are_not_offered_even_while_required_ones_are_missing(offered, line, own, of_others):
    found = offered(KINDS, line)
    assert own in found
    assert of_others not in found
