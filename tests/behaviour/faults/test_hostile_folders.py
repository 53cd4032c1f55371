"""Run folders of strangers: no verb writes outside of one, executes code in it, hangs, or lets it move the cursor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomli_w

HERE = Path(__file__).parent
_LOADER = SourceFileLoader("hostile_folders", str(HERE / "hostile_folders.py"))
hostile_folders = ModuleType("hostile_folders")
_LOADER.exec_module(hostile_folders)
FOLDERS, VERBS = list(hostile_folders.folders()), list(hostile_folders.VERBS)
SHARDS = 4
SLOW = {"verify-resume", "check --deep"}


class Zygote:
    """The process that tries cases; see `hostile_folders`."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
        self._process = subprocess.Popen(
            [sys.executable, HERE / "hostile_folders.py"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tried(self, folder: str, verb: str) -> dict[str, Any]:
        """Carry out a verb on a hostile folder."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"folder": folder, "verb": verb}) + "\n")
        self._process.stdin.flush()
        result: dict[str, Any] = json.loads(self._process.stdout.readline())
        return result

    def close(self) -> None:
        """Let the process end, and close its streams."""
        self._process.communicate()


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "tiny.toml").write_text(tomli_w.dumps(hostile_folders.spec_in(folder)))
    process = Zygote(folder)
    yield process
    process.close()


def obeyed(output: str) -> bool:
    """Return True if a terminal that shows a text would do more than show it."""
    return any(not (" " <= letter < "\x7f" or letter >= "\xa0" or letter in "\n\t") for letter in output)


def wrong(result: dict[str, Any]) -> list[str]:
    """Return what a verb has done and must not do."""
    found = list(result["effects"])
    found += ["it hangs"] if result["hangs"] else []
    found += [f"it ended as {result['code']}"] if not result["hangs"] and result["code"] not in range(5) else []
    found += ["its output moves the cursor"] if obeyed(result["output"]) else []
    return found + (["it shows a traceback"] if "Traceback" in result["output"] else [])


def failures(zygote: Zygote, cases: list[tuple[str, str]]) -> dict[str, Any]:
    found = {}
    for folder, verb in cases:
        result = zygote.tried(folder, verb)
        if effects := wrong(result):
            found[f"{verb} | {folder}"] = (effects, result["code"], result["output"][-600:])
    return found


def told(found: dict[str, Any]) -> str:
    cases = ((case, *result) for case, result in found.items())
    return "\n\n".join(f"{case}\n  {effects}  exit code {code}\n{output}" for case, effects, code, output in cases)


def test_every_verb_works_on_a_sound_folder(zygote: Zygote) -> None:
    """Or refusing everything would do."""
    ended = {verb: zygote.tried("sound", verb) for verb in VERBS if verb not in SLOW}
    refused = {
        verb: (wrong(result), result["code"], result["output"])
        for verb, result in ended.items()
        if result["code"] != (verb == "spec diff") or wrong(result)  # which is 1 if the two differ
    }
    assert not refused, told(refused)


def test_no_verb_has_an_effect_beside_the_folder(zygote: Zygote, figures: Callable[..., None]) -> None:
    """A few of the cases, each verb in one of them."""
    verbs = [verb for verb in VERBS if verb not in SLOW]
    wanted = [(folder, verbs[number % len(verbs)]) for number, folder in enumerate(FOLDERS[::8])]
    cases = [case for case in wanted if case in hostile_folders.cases()]
    found = failures(zygote, cases)
    assert not found, told(found)
    figures("hostile folders", tried=len(cases))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_verb_of_all_has_an_effect_beside_any_folder(
    zygote: Zygote, figures: Callable[..., None], shard: int
) -> None:
    cases = hostile_folders.cases()[shard::SHARDS]
    found = failures(zygote, cases)
    assert not found, told(found)
    figures("hostile folders", tried=len(cases), folders=[float(len(FOLDERS))], verbs=[float(len(VERBS))])


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(FOLDERS) >= 60
