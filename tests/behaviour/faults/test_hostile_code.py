"""Specs import only from places that the user trusts, which a run's folder is not."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import noether
from noether.checkpoint.manifest import SPEC, FileRecord
from noether.checkpoint.paths import checkpoint_folders, read_manifest
from noether.kernel.registry import Registry
from noether.spec.load import load_spec

CANARY = "import pathlib\npathlib.Path('{place}/executed').touch()\n"
MODEL = "from noether.core.models.mlp import MLP\n\n\nclass Mine(MLP):\n    pass\n"
KINDS = [
    "os.system",
    "os:system",
    "logging.os.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "pdb.Pdb._getval",
    "pdb.Pdb.do_debug",
    "code.InteractiveInterpreter.runcode",
    "timeit.timeit",
    "runpy.run_path",
    "ctypes.CDLL",
    "pickle.loads",
    "importlib.import_module",
    "torch.load",
    "torch.hub.load",
    "torch.hub.os.system",
    "torch.serialization.pickle.loads",
    "torch.utils.cpp_extension.load",
    "torch.utils.cpp_extension.subprocess.Popen",
    "torch.nn.Module.__init__.__globals__",
    "torch.nn.Module.__subclasses__",
    "torch.nn.Module.forward",
    "torch.nn.Linear._load_from_state_dict",
    "noether.config.secrets.logging.os.system",
    "noether.cli.main.os.system",
    "noether.kernel.compile.exec",
    "noether.kernel.importing.import_target",
    "\uff4f\uff53.system",  # full-width letters, which Python's parser would take for `os`
    "\u03bfs.system",
    "os\u200b.system",
    "os.\u017fystem",
    "evil.Mine",
    "evil:Mine",
    ".evil.Mine",
    "runs.a.evil.Mine",
    "runs.evil.Mine",
    "runs.a.package.evil.Mine",
    "a.evil.Mine",
]


@pytest.fixture
def download(tiny_spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run folder with hostile code, which leaves a mark if it is imported."""
    modules, path = set(sys.modules), list(sys.path)
    tiny_spec["trainer"]["callbacks"] = [{"kind": "checkpoint", "every_n_epochs": 1}]
    noether.run(tiny_spec, set={"trainer.max_epochs": 1}, run_id="a", quiet=True)
    place = tmp_path_factory.mktemp("download")
    shutil.move("runs", place / "runs")
    for folder in (place, place / "runs", place / "runs/a", place / "runs/a/package", place / "src"):
        folder.mkdir(exist_ok=True)
        (folder / "evil.py").write_text(CANARY.format(place=place) + MODEL)
        (folder / "__init__.py").write_text(CANARY.format(place=place)) if folder != place else None
    (place / "pyproject.toml").touch()
    yield place
    assert not (place / "executed").exists()
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("evil", "runs", "mine"):
            del sys.modules[name]


def rewrite(run: Path, kind: str) -> None:
    resolved = run / "spec.resolved.toml"
    text = resolved.read_text()
    assert 'kind = "mlp"' in text
    text = text.replace('kind = "mlp"', tomli_w.dumps({"kind": kind}).strip())
    resolved.write_text(text)
    for step in checkpoint_folders(run / "checkpoints"):  # whose copy would be restored otherwise
        manifest = read_manifest(step)
        (step / SPEC).write_text(text)
        forged = replace(manifest, files={**manifest.files, SPEC: FileRecord.of(text.encode())})
        (step / "manifest.json").write_bytes(replace(forged, spec_sha256=forged.files[SPEC].sha256).encode())


@pytest.mark.parametrize("kind", KINDS)
def test_the_spec_of_a_strangers_run_imports_nothing_of_its_own(  # M5, M6
    download: Path, noether_command: Callable[..., Any], kind: str
):
    run = download / "runs/a"
    rewrite(run, kind)
    for verb in ("eval", "resume"):
        ended = noether_command(verb, run)
        assert ended.code == 2, ended
        assert "Traceback" not in ended.err
    assert not (run / "evaluations").exists()


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_run_without_its_record_is_a_run_all_the_same(  # M6
    download: Path, noether_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
):
    run = download / "runs/a"
    for kind in ("evil.Mine", "runs.a.evil.Mine", "a.evil.Mine"):
        rewrite(run, "mlp") if kind == "evil.Mine" else shutil.copy(download / "kept", run / "spec.resolved.toml")
        shutil.copy(run / "spec.resolved.toml", download / "kept")
        rewrite(run, kind)
        (run / "run.json").unlink(missing_ok=True)
        assert noether_command("resume", run, *options).code == (0 if options else 2)


@pytest.mark.parametrize("place", [".", "runs", "runs/a"])
def test_standing_in_the_run_makes_it_no_project(  # M6
    download: Path, noether_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, place: str
):
    run = download / "runs/a"
    for kind in ("evil.Mine", "package.evil.Mine") if place == "runs/a" else ("runs.a.evil.Mine", "a.evil.Mine"):
        for folder in ("runs", "runs/a"):  # whose own code is that of the project where one stands
            (download / folder / "__init__.py").unlink(missing_ok=True)
        monkeypatch.chdir(download / place)
        shutil.copy(run / "spec.resolved.toml", download / "kept")
        rewrite(run, kind)
        assert noether_command("eval", run.absolute()).code == 2
        shutil.copy(download / "kept", run / "spec.resolved.toml")


@pytest.mark.parametrize("source", ["spec.resolved.toml", "spec.toml"])
def test_a_spec_that_is_run_from_a_runs_folder_is_the_runs(download: Path, noether_command, source: str):  # M6
    run = download / "runs/a"
    rewrite(run, "evil.Mine")
    shutil.copy(run / "spec.resolved.toml", run / "kept.toml")
    (run / "kept.toml").replace(run / source)
    assert noether_command("check", run / source).code == 2


@pytest.mark.parametrize("place", ["attempts/0001.resolved.toml", "spec.toml", "package/deep/spec.toml"])
def test_a_spec_anywhere_below_a_run_names_no_code_of_it(download: Path, noether_command, place: str):
    run = download / "runs/a"
    rewrite(run, "evil.Mine")
    spec = run / place
    spec.parent.mkdir(parents=True, exist_ok=True)
    (spec.parent / "evil.py").write_text(CANARY.format(place=download) + MODEL)
    (spec.parent / "pyproject.toml").touch()
    shutil.copy(run / "spec.resolved.toml", spec)
    ended = noether_command("check", spec)
    assert ended.code == 2
    assert "not-trusted" in ended.err


def test_a_spec_names_no_code_of_another_run(download: Path, noether_command, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(download / "runs/a", download / "runs/b")
    (download / "runs/__init__.py").unlink()
    rewrite(download / "runs/a", "runs.b.evil.Mine")
    monkeypatch.chdir(download)
    assert noether_command("eval", "runs/a").code == 2


@pytest.mark.parametrize("place", [".", "attempts"])
@pytest.mark.parametrize("arguments", ["plugins list", "eval ."])
@pytest.mark.parametrize("installed", [True, False], ids=["noether", "python -m noether"])
def test_the_command_imports_nothing_of_a_run_in_which_the_user_stands(
    download: Path, place: str, arguments: str, installed: bool
):
    run = download / "runs/a"
    command = [str(Path(sys.executable).with_name("noether"))] if installed else [sys.executable, "-m", "noether"]
    names = ["typer", "csv", "email", "json", "click", "torch", "rich", "multiprocessing"]
    for name in [*names, *(["noether", "importlib", "runpy", "os", "sitecustomize"] if installed else [])]:
        (run / place / f"{name}.py").write_text(CANARY.format(place=download))
    command += arguments.split()
    ended = subprocess.run(command, cwd=run / place, capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
    if arguments == "plugins list":
        assert ended.returncode == 0, ended.stderr


def test_python_m_noether_finds_the_code_of_the_project(tiny_spec: dict[str, Any]):
    Path("mine.py").write_text(MODEL)
    Path("typer.py").write_text("raise SystemExit(9)")
    tiny_spec["model"]["kind"] = "mine.Mine"
    Path("tiny.toml").write_text(tomli_w.dumps(tiny_spec))
    command = [sys.executable, "-m", "noether", "check", "tiny.toml"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    Path("beside.py").touch()
    Path("other.py").write_text("import noether, beside")
    assert subprocess.run([sys.executable, "-m", "other", "-m", "noether"], check=False).returncode == 0


def test_a_run_names_the_code_of_the_project_in_which_the_user_stands(  # M6
    download: Path, noether_command: Callable[..., Any]
):
    rewrite(download / "runs/a", "mine.Mine")
    assert noether_command("eval", download / "runs/a").code == 2
    Path("mine.py").write_text(MODEL)
    ended = noether_command("eval", download / "runs/a")
    assert ended.code == 0, ended
    assert sys.modules["mine"].__file__ == str(Path("mine.py").absolute())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["callback", "loss", "optimizer", "dataset"])
def test_no_role_takes_it(kind: str, role: str):  # M5
    with pytest.raises(noether.errors.PluginError):
        Registry.installed().load(role, kind)


def test_the_rule_is_one_of_the_folder_and_not_of_the_verb(download: Path):  # M6
    folders = load_spec(download / "runs/a/spec.resolved.toml").project_folder
    assert not folders.is_relative_to(download)


PACKAGE = Path(noether.__file__).parent
LOADERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}
ALLOWED = {
    "testing/ranks.py": {"pickle"},  # from and for the processes that a test has started
    "kernel/compile.py": {"exec", "compile"},  # the text is made of names of hooks and numbers
    "data/workers.py": {"pickle"},  # an error of the process itself, to see if another one can be sent it
}


def dangers(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            found |= {module for module in modules if module.partition(".")[0] in LOADERS}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.add(node.func.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if node.func.attr == "load" and isinstance(owner, ast.Name) and owner.id in ("torch", "np", "numpy"):
                pickles = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
                if pickles.get("allow_pickle") is not False:
                    found.add(f"{owner.id}.load")
            if node.func.attr == "system" or (node.func.attr in ("run", "Popen") and _has_shell(node)):
                found.add("a shell")
    return found


def _has_shell(call: ast.Call) -> bool:
    return any(keyword.arg == "shell" for keyword in call.keywords)


def test_nothing_in_the_package_unpickles_or_evaluates():  # M3, M7
    found = {str(path.relative_to(PACKAGE)): dangers(path) for path in PACKAGE.rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == ALLOWED


def test_the_search_for_such_calls_finds_them(tmp_path: Path):
    lines = {
        "import pickle": "pickle",
        "from joblib import load": "joblib",
        "torch.load(path, weights_only=True)": "torch.load",
        "np.load(path)": "np.load",
        "np.load(path, allow_pickle=True)": "np.load",
        "eval(text)": "eval",
        "os.system(text)": "a shell",
        "subprocess.run(text, shell=True)": "a shell",
    }
    for line, name in lines.items():
        (tmp_path / "a.py").write_text(line)
        assert dangers(tmp_path / "a.py") == {name}
