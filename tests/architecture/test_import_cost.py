"""Modules that have to import fast, each in a fresh process because this one has imported everything."""

from __future__ import annotations

import ast
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import noether

HEAVY = ("torch", "mlflow", "pandas", "numpy", "sklearn", "matplotlib", "pyarrow")
DISASTER_SECONDS = 0.5
MOST_MODULES = 245
MOST_SECONDS_OF_A_LIST = 0.3

LOOK = f"""
import json, sys, atexit
atexit.register(lambda: print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr))
"""


def heavy_imports(code: str) -> list[str]:
    """Run `code` in a new process and return the heavy packages that it has imported at its end."""
    run = subprocess.run([sys.executable, "-c", LOOK + code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found: list[str] = json.loads(run.stderr.splitlines()[-1])
    return found


def command(*arguments: str) -> str:
    return f"sys.argv = ['noether', *{arguments!r}]\nfrom noether.cli.main import main\nmain()"


@pytest.mark.parametrize(
    "code",
    [
        "import noether",
        command("--help"),
        command("plugins", "list"),
        command("plugins", "list", "--role", "optimizer"),
        command("run", "--help"),
    ],
    ids=["import noether", "--help", "plugins list", "plugins list --role", "run --help"],
)
def test_what_people_type_first_imports_nothing_heavy(code: str) -> None:
    assert heavy_imports(code) == []


@pytest.mark.parametrize("arguments", [("--help",), ("plugins", "list"), ("run", "--help")])
def test_a_command_that_reads_no_spec_starts_without_pydantic_and_pluggy(arguments: tuple[str, ...]) -> None:
    """Count modules instead of seconds, which the machine changes: pydantic takes 0.1 s, pluggy 0.02."""
    slow = (
        "pydantic",
        "pydantic_core",
        "pluggy",
        "hashlib",
        "rich",
        "noether.checkpoint.manifest",
        "noether.spec.model",
    )
    at_exit = f"atexit.register(lambda: print([name for name in {slow!r} if name in sys.modules], len(sys.modules)))"
    code = f"import atexit, sys\n{at_exit}\n{command(*arguments)}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found, _, count = run.stdout.splitlines()[-1].rpartition(" ")
    assert found == "[]"
    assert int(count) < MOST_MODULES


@pytest.mark.parametrize(
    "words", [("run", "x.toml", "-s", "tr"), ("eval", "x", "--checkpoint", ""), ("runs", "show", "")]
)
def test_a_shell_that_completes_a_word_waits_for_neither_pydantic_nor_torch(words: tuple[str, ...]) -> None:
    slow = (*HEAVY, "pydantic", "pluggy", "rich", "noether.spec.model")
    at_exit = f"atexit.register(lambda: print([name for name in {slow!r} if name in sys.modules]))"
    asked = {"_NOETHER_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(["noether", *words])}
    run = subprocess.run(
        [sys.executable, "-c", f"import atexit, sys\n{at_exit}\n{command()}"],
        capture_output=True,
        text=True,
        env={**os.environ, **asked, "COMP_CWORD": str(len(words))},
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def fifty(tmp_path: Path) -> Path:
    """A folder of `sys.path` with fifty plugins, each with a requirement on Noether, whose modules do not exist."""
    for number in range(50):
        metadata = tmp_path / f"noether_plugin_n{number}-1.0.dist-info"
        metadata.mkdir()
        name = f"Metadata-Version: 2.1\nName: noether-plugin-n{number}\nVersion: 1.0\n"
        (metadata / "METADATA").write_text(f"{name}Requires-Dist: noether-train>=0.1,<{number + 1}\n")
        points = (
            f"[noether.commands]\nverb{number} = n{number}:verb\n[noether.callbacks]\nkind{number} = n{number}:Kind\n"
        )
        (metadata / "entry_points.txt").write_text(points)
    return tmp_path


def test_listing_verbs_and_kinds_imports_no_plugin_and_no_other_verb(fifty: Path) -> None:
    for arguments, listed, own in (
        (("--help",), "verb49", set()),
        (("plugins", "list"), "kind49", {"plugins", "doctor"}),
    ):
        at_exit = (
            "atexit.register(lambda: print([name for name in sys.modules if name.startswith(('n', 'noether.cli.'))]))"
        )
        code = f"import atexit, sys\nsys.path.insert(0, {str(fifty)!r})\n{at_exit}\n{command(*arguments)}"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (run.returncode, listed in run.stdout) == (0, True), run.stderr
        imported = set(ast.literal_eval(run.stdout.splitlines()[-1]))
        verbs = {name.removeprefix("noether.cli.") for name in imported if name.startswith("noether.cli.")}
        assert verbs == {"interrupts", "main", "options", "output", *own}
        assert not {name for name in imported if name[1:].isdecimal()}


REPORT = "noether.runs.results.report"


def modules_below(package: str) -> list[str]:
    root = Path(noether.__file__).parent
    folder = root / package.replace(".", "/")
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    names = [".".join(("noether", *path.relative_to(root).with_suffix("").parts)) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize(
    "package", ["kernel", "spec", "config", "core.schemas", "core.utils", "core.protocols", "errors", "runs.results"]
)
def test_the_lower_layers_and_what_reads_results_import_nothing_heavy(package: str) -> None:
    names = [name for name in modules_below(package) if not name.startswith(REPORT)]
    assert names
    assert heavy_imports(f"import importlib\nfor name in {names!r}: importlib.import_module(name)") == []


def test_a_report_needs_numpy_and_nothing_heavier() -> None:
    names = modules_below(REPORT.removeprefix("noether."))
    assert heavy_imports(f"import importlib\nfor name in {names!r}: importlib.import_module(name)") == ["numpy"]


def processor_time_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def best_processor_time(capsys: pytest.CaptureFixture[str], *arguments: str, **variables: str) -> float:
    script = Path(sys.executable).with_name("noether")
    # Processor time, which other processes do not change; with bytecode, as where a command is installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | variables
    seconds = []
    for _ in range(5):
        started = processor_time_of_children()
        subprocess.run([script, *arguments], capture_output=True, check=True, env=environment)
        seconds.append(processor_time_of_children() - started)
    with capsys.disabled():
        print(f"\nnoether {' '.join(arguments)}: {min(seconds):.3f} s, the best of {len(seconds)}")
    return min(seconds)


def test_help_is_there_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert best_processor_time(capsys, "--help") < DISASTER_SECONDS


def test_fifty_plugins_are_listed_at_once(capsys: pytest.CaptureFixture[str], fifty: Path) -> None:
    assert best_processor_time(capsys, "plugins", "list", PYTHONPATH=str(fifty)) < MOST_SECONDS_OF_A_LIST
