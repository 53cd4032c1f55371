"""Files of a run folder are opened in one module; every other call that opens, lists or changes files is known."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "noether"
OF_PATHS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "touch", "iterdir", "glob", "rglob"}
OF_PATHS |= {"mkdir", "unlink", "rmdir", "rename", "symlink_to", "hardlink_to"}
OF_OS = {"open", "truncate", "mkdir", "makedirs", "unlink", "remove", "rename", "replace", "rmdir", "link", "symlink"}
OF_OS |= {"listdir", "scandir", "walk"}
MODULES = ("os", "shutil", "gzip", "tempfile")
OTHER_MEANING = {
    "SavedCheckpoint.open",
    "tracker.open",
    "delivery.open",
    "archive.open",
    "durable.rename",
    "typer.open",
}

KNOWN = {
    "checkpoint/untrusted.py": "the one module",
    "checkpoint/durable.py": "changes names below folders that `untrusted` has checked, and opens new files (O_EXCL)",
    "cli/completion.py: (files('noether.cli') / KEYS).read_text": "a part of the package",
    "cli/completion.py: os.scandir": "the working folder and the folder of all runs, for names",
    "cli/doctor.py": "a temporary folder, for the output and the report of the process of a plugin",
    "cli/main.py: os.open": "the null device, in place of a missing standard stream",
    "cli/main.py: Path(os.devnull).open": "the null device",
    "cli/output.py": "a file that the command line names",
    "cli/package.py": "folders that the command line names, new or the user's own, and our own templates",
    "cli/spec.py: runs.iterdir": "the folder of all runs, for their names",
    "cli/runs.py: webbrowser.open": "the page that the command has just written",
    "core/initializers/weights.py: output.iterdir": "the folder of all runs, for their names",
    "core/trackers/mlflow/client.py": "the folder of MLflow's own store",
    "core/trackers/mlflow/page.py: tempfile.TemporaryDirectory": "a temporary folder",
    "core/trackers/mlflow/requests.py: Image.open": "a copy in a temporary folder, for a tracker",
    "core/trackers/mlflow/requests.py: Path(copy).read_bytes": "a download in a temporary folder",
    "core/trackers/mlflow/requests.py: tempfile.TemporaryDirectory": "a temporary folder",
    "data/sources/bundled.py": "data that scikit-learn brings",
    "data/sources/columns.py": "data files that the spec names",
    "data/sources/delimited.py": "data files that the spec names",
    "data/sources/images.py": "images that the spec names",
    "data/sources/mapped.py": "data files that the spec names",
    "data/sources/survey.py": "data files that the command line names",
    "metrics/delivery.py: copy.write_bytes": "a copy in a temporary folder, for a tracker",
    "metrics/delivery.py: tempfile.TemporaryDirectory": "a temporary folder",
    "metrics/spool.py": "the positions of trackers",
    "runs/console.py: os.open": "the null device, when nobody reads the output any more",
    "runs/predict/export.py": "a file that the command line names",
    "runs/predict/pack.py": "a copy in a temporary folder, for a tracker",
    "runs/folder/run_folder.py: Path(output).glob": "the folder of all runs, for their names",
    "runs/measure/hook_costs.py: _SCHEDULER.read_text": "the system's account of this thread's time",
    "runs/outcome.py: Path(ended).open": "a temporary folder, for the exit code of the ranks",
    "runs/ranks.py": "temporary folders, for that exit code, and for what a rank writes beside the run folder",
    "runs/predict/files.py": "files that the command line names",
    "runs/resume/facts.py": "source files of the project, and data files that the spec names, for their hashes",
    "runs/mirror/store.py": "objects of the store that the user names, by fsspec",
    "runs/resume/continuation.py: paths.output_path.iterdir": "the folder of all runs, for a free name",
    "runs/results/report/page.py: (folder / 'page.html').read_text": "a part of the package",
    "runs/results/report/page.py: (folder / name).read_text": "a part of the package",
    "runs/results/summary.py: output.iterdir": "the folder of all runs, for their names",
    "runs/sweep/journal.py: self.output.glob": "the folder of all runs, for the names of sweeps",
    "runs/process_state.py: path.read_text": "limits of the control group, which the kernel writes",
    "training/compiled.py: shutil.which": "the C++ compiler of this machine",
    "runs/tracking/tracking.py: folder.mkdir": "a temporary folder, for the copy of a model",
    "runs/tracking/tracking.py: spec.read_text": "specs of the user's project",
    "runs/tracking/tracking.py: top.glob": "specs of the user's project",
    "runs/resume/compare.py": "runs that the command has made itself",
    "runs/resume/verify_resume.py": "runs that the command has made itself",
    "spec/read/document.py": "spec files; `spec/load` refuses links to and in run folders",
    "spec/overlay.py": "a spec that the command line names, or that is beside one; and in the folder of a sweep",
    "spec/tables.py: file.read_text": "`noether_plugin.py` of the project, for a hint",
    "training/signals.py: os.open": "the null device, in place of a terminal that was closed",
    "testing/builders.py": "a folder for tests",
    "testing/contract.py": "a folder for tests",
    "testing/observers.py": "a folder for tests, and trackers",
    "testing/pytest_plugin.py": "a folder for tests",
    "testing/ranks.py": "a temporary folder, for what the ranks of a test print",
}
"""Calls, or whole modules, that do not touch the run folder of a stranger; each with the reason."""


def calls(tree: ast.AST) -> Iterator[str]:
    """Yield each function that is called to open, list or change files, as it is written."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        owner, _, method = name.rpartition(".")
        if owner in MODULES:
            found = owner != "os" or method in OF_OS
        else:
            found = name == "open" or (bool(owner) and method in OF_PATHS)
        if found and not name.endswith(tuple(OTHER_MEANING)):
            yield name


@cache
def trees() -> dict[str, ast.Module]:
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


@cache
def found() -> set[str]:
    return {f"{name}: {call}" for name, tree in trees().items() for call in calls(tree)}


def is_known(call: str) -> bool:
    return call in KNOWN or call.partition(": ")[0] in KNOWN


def test_only_one_module_opens_files_of_a_run() -> None:
    assert [call for call in sorted(found()) if not is_known(call)] == []


def test_every_exception_is_needed() -> None:
    used = {entry for call in found() for entry in (call, call.partition(": ")[0])}
    assert KNOWN.keys() - used == set()


def test_such_calls_are_found() -> None:
    for text in ("open(p)", "p.open()", "os.open(p, 0)", "p.read_text()", "shutil.copy(a, b)", "a.b.glob('*')"):
        assert list(calls(ast.parse(text))), text


PRINT = {
    "cli/output.py": "escapes control characters",
    "kernel/compile.py": "names of hooks and ids of callbacks",
    "runs/execution.py": "one line, escaped",
}


def test_text_is_printed_where_it_is_escaped() -> None:
    found = set()
    for name, tree in trees().items():
        names = (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))
        if {"print", "sys.stdout.write", "sys.stderr.write"} & set(names):
            found.add(name)
    assert found == PRINT.keys()
