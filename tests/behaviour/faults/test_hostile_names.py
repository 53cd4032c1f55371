"""Names in a spec, on the command line or in a checkpoint never lead to writes outside of the run."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import noether
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import Checkpoint, CheckpointNames, SavedCheckpoint
from noether.checkpoint.state import callback_file
from noether.core.initializers.weights import run_below
from noether.errors import NoetherError
from noether.runs.folder.run_folder import checked_run_id, find_run

NASTY = {
    "a path of the parent": "../escaped",
    "a long way up": "../" * 40 + "tmp/escaped",
    "a path within": "a/../../escaped",
    "an absolute path": "/tmp/noether-escaped",
    "the parent": "..",
    "this folder": ".",
    "nothing": "",
    "a blank": " ",
    "hidden": ".escaped",
    "an option": "-rf",
    "a long option": "--output=/tmp",
    "a home": "~/escaped",
    "a variable": "$HOME/escaped",
    "a NUL": "a\0b",
    "a line end": "a\nerror: fine",
    "a terminal's escape": "\x1b[2Ja",
    "a direction mark": "abc\u202efdp",
    "backslashes": "..\\..\\escaped",
    "a drive": "C:escaped",
    "a device": "/dev/null",
    "look-alikes": "\u0430\u0440\u0440",
    "a full-width slash": "..\uff0f..\uff0fescaped",
    "not composed": "e\u0301",
    "too long": "a" * 300,
    "very long": "a" * 100_000,
    "a lone surrogate": "\udcff",
    "a glob": "*",
    "code": "$(touch escaped)",
}
LETTERS = st.sampled_from([*"aZ09._-+=~/\\ \0\n\t*?$:", "..", "../", "é", "e\u0301", "\u202e", "\uff0f", "\udcff"])
names = st.one_of(
    st.lists(LETTERS, max_size=12).map("".join), st.text(max_size=20), st.sampled_from(sorted(NASTY.values()))
)
TRACK = {"kind": "track-additional-outputs", "every_n_updates": 3, "patterns": ["*"], "save_output": True}


@pytest.fixture
def elsewhere(tiny_spec: dict[str, Any]) -> Iterator[None]:
    """Everything but the folder of runs is at the end as it was at the beginning."""

    def everything_else() -> set[tuple[str, int, int]]:
        found = set()
        for place in (Path(), Path("/tmp"), Path.cwd().parent):
            deep = place.rglob("*") if place == Path() else place.glob("*escaped*")
            found |= {(str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in deep if path.is_file()}
        return {entry for entry in found if not entry[0].startswith("runs/")}

    before = everything_else()
    yield
    assert everything_else() == before


def plain(run: Path) -> bool:
    """Return True if all files of a run folder have plain names."""
    return all(part.isascii() and part.isprintable() for path in run.rglob("*") for part in path.parts[-3:])


@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
def test_a_run_id(elsewhere: None, run: Callable[..., Any], name: str):  # M1
    with pytest.raises(NoetherError):
        run(run_id=name)
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
def test_a_name_and_an_id_in_a_spec(elsewhere: None, run: Callable[..., Any], name: str):  # M1
    for changes in ({"name": name}, {"trainer.callbacks": [{**TRACK, "id": name}]}):
        with pytest.raises(NoetherError):
            run(changes)
    nested = {"kind": "offline-loss", "id": name, "every_n_epochs": 1, "dataset_key": "test"}
    ema = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5], "eval_callbacks": [nested]}
    with pytest.raises(NoetherError):
        run({"trainer.callbacks": [ema]})
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/noether-escaped", "..", "a\\b", "é", "\u202e", "a b"])
def test_a_key_of_a_data_set_becomes_no_path(elsewhere: None, tiny_spec: dict[str, Any], name: str):  # M1
    tiny_spec["datasets"][name] = tiny_spec["datasets"]["test"]
    loss = {"kind": "offline-loss", "id": "loss", "every_n_epochs": 1, "dataset_key": name}
    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": f"loss/{name}/total"}
    kept = {"kind": "checkpoint", "every_n_epochs": 1}
    tiny_spec["trainer"]["callbacks"] = [loss, best, kept, TRACK]
    outcome = noether.run(tiny_spec, run_id="a", quiet=True)
    assert outcome.status in ("FINISHED", "FAILED")
    if outcome.status == "FINISHED":
        found = CheckpointNames(outcome.run_dir / "checkpoints").find(f"best_model.loss/{name}/total")
        assert found.saved.folder.parent == outcome.run_dir / "checkpoints"
    assert plain(outcome.run_dir)


@pytest.mark.parametrize("name", ["../escaped", "/tmp/noether-escaped", "..", "", "a" * 300, "\u202e"])
def test_a_run_that_an_initializer_names(elsewhere: None, run: Callable[..., Any], name: str):  # M1
    for kind in ("resume", "previous-run"):
        for table in ({"run_id": name}, {"run_id": "a", "checkpoint": name}):
            try:
                outcome = run({"initializer": {"kind": kind, **table}}, run_id="a")
            except NoetherError:
                continue
            assert outcome.status == "FAILED"
            assert isinstance(outcome.error, NoetherError)
            for path in sorted(outcome.run_dir.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            outcome.run_dir.rmdir()


@pytest.mark.parametrize("name", [name for name in NASTY.values() if "\0" not in name and "\udcff" not in name])
def test_a_run_and_a_checkpoint_on_the_command_line(elsewhere: None, noether_command: Any, run: Any, name: str):  # M1
    if not Path("runs/a").exists():
        run({"trainer.max_epochs": 1}, run_id="a")
    for arguments in (("eval", "a", "--checkpoint", name), ("eval", "--", name)):
        ended = noether_command(*arguments)
        assert ended.code in (2, 3)
        assert "Traceback" not in ended.err
        assert all(line.isprintable() for line in ended.err.split("\n"))
    assert {path.name for path in Path("runs").iterdir()} == {"a"}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one step in the only run, which holds one callback's file."""
    step = tmp_path_factory.mktemp("names") / "runs/a/checkpoints/step-000000000006"
    step.mkdir(parents=True)
    (step / "manifest.json").touch()
    return step.parents[1]


@settings(max_examples=150)
@given(names)
def test_a_name_leads_nowhere_else(run_dir: Path, name: str):  # M1
    doors: list[Callable[[], Path]] = [
        lambda: run_dir.parent / checked_run_id(name, run_dir.parent),
        lambda: run_dir / callback_file(name),
        lambda: run_dir / callback_file("ema", name),
        lambda: PathProvider(run_dir.parent, checked_run_id(name, run_dir.parent)).checkpoint_path,
        lambda: run_below(run_dir.parent, name),
        lambda: CheckpointNames(run_dir / "checkpoints").find(name).saved.folder,
    ]
    for door in doors:
        try:
            path = door()
        except NoetherError:
            continue
        assert path.resolve().is_relative_to(run_dir.parent)
        assert path.resolve() != run_dir.parent


@settings(max_examples=100)
@given(names)
def test_a_run_is_found_only_where_one_is(run_dir: Path, name: str):  # M1
    with pytest.raises(NoetherError):
        find_run(name, run_dir.parent)


@settings(max_examples=150)
@given(names, st.sampled_from(["files", "names", "weights", "alias"]))
def test_a_name_in_a_manifest_leads_nowhere_else(tmp_path_factory: Any, name: str, place: str):  # M1, M3
    folder = tmp_path_factory.getbasetemp() / "manifests/a/checkpoints/step-000000000006"
    folder.mkdir(parents=True, exist_ok=True)
    record = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    body: dict[str, Any] = {
        "epoch": 1,
        "update": 6,
        "sample": 48,
        "files": {},
        "aliases": {},
        "names": {},
        "world_size": 1,
        "spec_sha256": "",
        "parent": None,
        "resumable": True,
        "finite": True,
        "written_by": "",
        "format": 1,
    }
    if place == "files":
        body["files"][name] = record
    elif place == "alias":
        body["aliases"][name] = {"a": "b"}
    else:
        key = name if place == "names" else "last"
        body["names"][key] = {"update": 6, "weights": name if place == "weights" else "model.safetensors"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**body, "sha256": digest}))
    steps = CheckpointNames(folder.parent)
    for wanted in (name, "last", "latest"):
        try:
            found = steps.find(wanted)
        except NoetherError:
            continue
        _leads_into(found, folder)


def _leads_into(found: Checkpoint, folder: Path) -> None:
    assert found.saved.folder == folder
    for file in [found.weights, *SavedCheckpoint.open(folder).manifest.files]:
        assert (folder / file).resolve().is_relative_to(folder.resolve())
        assert (folder / file).resolve() != folder.resolve()
