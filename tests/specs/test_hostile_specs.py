"""Specs written to hang, crash or run code are refused fast and briefly, and execute nothing."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noether.errors import SpecError
from noether.kernel.registry import Registry
from noether.spec.load import load_spec

SECONDS, GATE = 0.5, 1.0  # the goal, and the gate: a busy machine is up to twice as slow for minutes
GOOD = (Path(__file__).parent / "wrong/good.toml").read_text()
MIB = 1 << 20


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def kind(path: str) -> str:
    return changed('kind = "mlp"', f'kind = "{path}"')


def named(name: str) -> str:
    return changed('name = "small"', f"name = {name}")


def many(row: Callable[[int], str], size: int = MIB - len(GOOD) - 100) -> str:
    """Return as many numbered rows as fit a spec."""
    rows, length, number = [], 0, 0
    while length < size:
        rows.append(row(number))
        length += len(rows[-1]) + 1
        number += 1
    return "\n".join(rows[:-1]) + "\n"


DEPTHS = {
    "lists in lists": f"seed = {'[' * 100_000}{']' * 100_000}\n",
    "lists that are not closed": "seed = " + "[" * (MIB - 100),
    "tables in tables": "a = " + "{a = " * 100_000 + "1" + "}" * 100_000 + "\n",
    "tables that are not closed": "{a=" * 300_000,
    "headers in headers": "[" + ".".join("a" * 300_000) + "]\n",
    "a key of many parts": ".".join("a" * 500_000) + " = 1\n",
    "a key of many quoted parts": ".".join(['"a"'] * 200_000) + " = 1\n",
    "headers one deeper each": "\n".join("[" + ".".join("a" * depth) + "]" for depth in range(1, 400)),
    "lists of tables one deeper each": "\n".join("[[" + ".".join("a" * depth) + "]]" for depth in range(1, 33)),
    "nested callbacks": changed(
        "[expect]", 'callbacks = [{kind = "average", eval_callbacks = ' * 20 + "[]" + "}]" * 20 + "\n[expect]"
    ),
    "depth by a header and a value": "[" + ".".join("a" * 30) + "]\nb = " + "[" * 30 + "]" * 30 + "\n",
}
SIZES = {
    "a file beyond the limit": "#" * (MIB + 1),
    "comments": GOOD + "seed = x\n" + "# a\n" * 200_000,
    "empty lines": "\n" * (MIB - 200) + "seed = x",
    "line ends of Windows": "\r\n" * (MIB // 2 - 200) + "seed = x",
    "line ends of old": "\r" * (MIB - 200) + "seed = 1",
    "blanks": "seed = " + " " * (MIB - 200) + "x",
    "tabs": "\t" * (MIB - 200) + "seed = x",
    "dots": "." * (MIB - 200),
    "equals signs": "=" * (MIB - 200),
    "commas": "seed = [" + "," * (MIB - 200),
    "quotes": '"' * (MIB - 200),
    "single quotes": "'" * (MIB - 200),
    "backslashes": 'seed = "' + "\\" * (MIB - 200),
    "escapes": 'seed = "' + "\\u0041" * (MIB // 6 - 100) + '"\n',
    "wrong escapes": 'seed = "' + "\\q" * (MIB // 2 - 100) + '"\n',
    "a string without an end": 'seed = "' + "a" * (MIB - 200),
    "lines of a string without an end": 'seed = """' + "a\n" * (MIB // 2 - 200),
    "a key of a million characters": "a" * (MIB - 200) + " = 1\n",
    "a quoted key of a million characters": '"' + "ä" * (MIB // 2 - 200) + '" = 1\n',
    "a kind of a million characters": kind("a" * (MIB - 2000)),
    "a kind of many dots": kind("a." * (MIB // 2 - 2000) + "a"),
    "a kind of many slashes": kind("a/" * (MIB // 2 - 2000) + "a"),
    "a name of a million characters": named(f'"{"a " * (MIB // 2 - 2000)}"'),
    "a device of a million digits": f'device = "cuda:{"1" * (MIB - 2000)}x"\n{GOOD}',
    "a number of a million digits": "seed = " + "9" * (MIB - 200) + "\n",
    "a number of four thousand digits": "seed = " + "9" * 4_000 + "\n" + GOOD,
    "a fraction of a million digits": "seed = 0." + "9" * (MIB - 200) + "\n" + GOOD[:100],
    "a hexadecimal number of a million digits": "seed = 0x" + "f" * (MIB - 200) + "\n",
    "underscores in a number": "seed = " + "1_" * (MIB // 2 - 200) + "1\n",
    "an exponent": f"threads = 1e{'9' * 1000}\n{GOOD}",
    "unknown keys": many("k{} = 1".format) + GOOD,
    "a thousand unknown keys near to one": "\n".join(f"se{n}ed = 1" for n in range(1000)) + "\n" + GOOD,
    "unknown tables": GOOD + many("[t{}]".format),
    "lists of tables": GOOD + many(lambda _: "[[t]]"),
    "one table many times": GOOD + many(lambda _: "[t]"),
    "callbacks without anything": GOOD + many(lambda _: "[[trainer.callbacks]]", 200_000),
    "callbacks of unknown kinds": GOOD
    + "".join(f'[[trainer.callbacks]]\nkind = "k{number}"\n' for number in range(3_000)),
    "callbacks of one id": GOOD
    + "".join(f'[[trainer.callbacks]]\nid = "a"\nkind = "offline-loss"\nn{number} = 1\n' for number in range(900)),
    "data sets of unknown kinds": GOOD + "".join(f'[datasets.d{n}]\nkind = "digitz"\n' for n in range(2_500)),
    "expectations": GOOD + "".join(f'"loss/{number}" = {{ min = 0 }}\n' for number in range(2_400)),
    "properties": changed('["image"]', f"[{'1, ' * 9_000}]"),
    "unknown properties": changed('["image"]', "[" + '"imagg", ' * 9_000 + "]"),
    "references": "".join(f'k{number} = {{env = "NOT_SET_{number}"}}\n' for number in range(2_400)) + GOOD,
}
CODE = {
    path: kind(path)
    for path in (
        "os.system",
        "os:system",
        "builtins.eval",
        "builtins:exec",
        "subprocess.Popen",
        "torch.hub.os.system",
        "torch.hub:os.system",
        "torch.nn.modules.module.torch.os.system",
        "torch.serialization.pickle.loads",
        "torch.utils.data.dataloader.os.system",
        "noether.errors.__builtins__.eval",
        "noether.errors.__loader__.load_module",
        "noether.config.secrets.os.system",
        "torch.nn.Module.__subclasses__",
        "torch.nn.Module.__init__.__globals__",
        "torch.nn.Linear.forward.__globals__.os",
        "canary_module.sing",
        "canary_package.nothing.Model",
        "canary_module",
        ".canary_module.sing",
        "..canary_module",
        "__main__.anything",
        "site.main",
        "antigravity.fly",
        "torch.hub.load",
        "/etc/passwd",
        "../../canary_module.sing",
        "canary_module.py",
        "torch.nn.Linear; import os",
        "__import__('os').system('true')",
        "${env:HOME}",
        "{{ 7 * 7 }}",
        "$(touch executed)",
        "`touch executed`",
    )
}
NAMES = {
    "a path as a name": named('"../../../tmp/x"'),
    "an absolute path as a name": named('"/tmp/x"'),
    "a name with a NUL escape": named(r'"a\u0000b"'),
    "a name with a terminal's escape": named(r'"\u001b[31m\u001b]0;owned\u0007"'),
    "a name with a direction mark": named(r'"abc\u202Efdp.exe"'),
    "a name with a line end": named(r'"a\nerror: fine"'),
    "a name of look-alikes": named(r'"\u0455mall"'),
    "no name": named('""'),
    "a name of dots": named('".."'),
    "a path as an id": changed('id = "val"', 'id = "../val"'),
    "an id with control characters": changed('id = "val"', r'id = "\u0007\u0008"'),
    "a kind with a line end": kind(r"a\nerror: fine"),
    "a dotted kind with a line end": kind(r"os.a\nerror: fine"),
    "a qualified kind with a line end": kind(r"a/b\nerror: fine"),
    "a kind with control characters": kind(r"\u001b[2J"),
    "a direction mark as it is": named('"abc\u202efdp"'),
    "a key with a direction mark": '"s\u0435ed\u202e" = 1\n' + GOOD,
    "a key with a terminal's escape": '"\\u001b[2J" = 1\n' + GOOD,
    "a NUL": "seed = 1\0\n",
    "a control character": "seed = \x07\n",
    "a lone surrogate": r'name = "\ud800"' + "\n",
    "a comment with a control character": "# \x1b[2J\nseed = 1\n",
    "__class__ as a key": "__class__ = 1\n" + GOOD,
    "__proto__ as a table": GOOD + "[model.__dict__]\na = 1\n",
    "model_config as a key": changed('kind = "mlp"', 'kind = "mlp"\nmodel_config = { extra = "allow" }'),
    "_component as a key": changed('kind = "mlp"', 'kind = "mlp"\n_component = "x"'),
    "a place of a format": "'{0.__class__}%s%n' = 1\n" + GOOD,
    "the marks of a terminal's colours": 'device = "[bold red]x[/]"\n' + GOOD,
}
NUMBERS = {
    "nan as a rate": changed("lr = 1e-3", "lr = nan"),
    "-nan as a rate": changed("lr = 1e-3", "lr = -nan"),
    "many nans": changed("lr = 1e-3", f"lr = 1e-3\nbetas = [{'nan, ' * 9_000}]"),
    "nan as a seed": "seed = nan\n" + GOOD,
    "inf as a seed": "seed = inf\n" + GOOD,
    "inf as a number of threads": "threads = inf\n" + GOOD,
    "nan from the environment": changed("lr = 1e-3", 'lr = { env = "HOSTILE_NAN" }'),
}
FILES = {
    "itself": 'extends = ["a.toml"]\n' + GOOD,
    "itself by another name": 'extends = ["./././a.toml"]\n' + GOOD,
    "itself through a parent": 'extends = ["../project/a.toml"]\n' + GOOD,
    "itself a thousand times": "extends = [" + '"a.toml", ' * 1000 + "]\n" + GOOD,
    "files that are missing": "extends = [" + ", ".join(f'"{n}.toml"' for n in range(1000)) + "]\n" + GOOD,
    "the system's files": 'extends = ["/etc/passwd"]\n' + GOOD,
    "an endless file": 'extends = ["/dev/zero"]\n' + GOOD,
    "a terminal": 'extends = ["/dev/tty"]\n' + GOOD,
    "a directory": 'extends = ["/"]\n' + GOOD,
    "a memory of a process": 'extends = ["/proc/self/mem"]\n' + GOOD,
    "a NUL in a path": r'extends = ["a\u0000.toml"]' + "\n" + GOOD,
    "a path of a million characters": 'extends = ["' + "a" * (MIB - 2000) + '"]\n' + GOOD,
    "the home of nobody": 'extends = ["~nobody-at-all/a.toml"]\n' + GOOD,
    "an address": 'extends = ["https://example.com/a.toml"]\n' + GOOD,
    "a chain": 'extends = ["chain-0.toml"]\n' + GOOD,
    "a tree": 'extends = ["tree-0-0.toml", "tree-0-1.toml"]\n' + GOOD,
    "large files": 'extends = ["large-0.toml", "large-1.toml", "large-2.toml"]\n' + GOOD,
    "a circle of links": 'extends = ["circle.toml"]\n' + GOOD,
    "a reference": 'extends = { env = "HOME" }\n' + GOOD,
    "references in a list": 'extends = [{ env = "HOME" }]\n' + GOOD,
}
REFERENCES = {
    "a reference in a reference": named('{ env = { env = "HOME" } }'),
    "a default that is a reference": named('{ env = "NOT_SET_AT_ALL", default = { env = "NOT_SET_EITHER" } }'),
    "a name with an equals sign": named('{ env = "A=B" }'),
    "a name with a NUL": named(r'{ env = "A\u0000B" }'),
    "an empty name": named('{ env = "" }'),
    "a name of a million characters": named(f'{{ env = "{"A" * (MIB - 2000)}" }}'),
    "a name with a terminal's escape": named(r'{ env = "\u001b[2J" }'),
    "a value with a terminal's escape": named('{ env = "HOSTILE_ESCAPE" }'),
    "a value that is TOML": changed("max_epochs = 3", 'max_epochs = { env = "HOSTILE_TOML" }'),
    "a value of deep TOML": changed("max_epochs = 3", 'max_epochs = { env = "HOSTILE_DEEP" }'),
    "a value of a large number": changed("max_epochs = 3", 'max_epochs = { env = "HOSTILE_NUMBER" }'),
    "a kind from the environment": changed('kind = "mlp"', 'kind = { env = "HOSTILE_KIND" }'),
    "a reference in place of a table": changed(
        "[expect]", '[loader]\nnum_workers = { env = "HOSTILE_TOML" }\n[expect]'
    ),
    "a secret in a kind": changed('kind = "mlp"', 'kind = { env = "HOSTILE_SECRET", secret = true }'),
}
VARIABLES = {
    "HOSTILE_ESCAPE": "\x1b[2J",
    "HOSTILE_TOML": "1\nname = 'b'",
    "HOSTILE_DEEP": "[" * 50_000,
    "HOSTILE_NUMBER": "9" * 100_000,
    "HOSTILE_KIND": "os.system",
    "HOSTILE_NAN": "nan",
    "HOSTILE_SECRET": "hunter2-hunter2",
}
OVERRIDES = {
    "a path of many parts": ".".join("a" * 50_000) + "=1",
    "a path of many ids": "a" + "[x]" * 50_000 + "=1",
    "a path of dots": "." * 100_000 + "=1",
    "brackets": "[" * 100_000,
    "brackets in a value": "seed=" + "[" * 100_000,
    "quotes": '"' * 100_000,
    "pairs of quotes": '"a" ' * 50_000,
    "no equals sign": "a" * 100_000,
    "plus signs": "+" * 100_000 + "=1",
    "a large index": f"trainer.callbacks.{'9' * 100_000}.id=1",
    "a negative index": "trainer.callbacks.-1.id=1",
    "more than a value": "seed=1\nname='b'",
    "a table in a value": "seed=1\n[model]\nkind='os.system'",
    "a large number": "seed=" + "9" * 100_000,
    "a NUL": "seed=\0",
    "a terminal's escape": "\x1b[2J=1",
    "an attribute": "__class__.__init__=1",
    "a lone surrogate": "name=\udcff",
    "a lone surrogate in a path": "\udcff=1",
    "a list that appends itself": "trainer.callbacks+=[[[]]]",
}
TEXTS = {
    f"{group}: {name}": text
    for group, cases in {
        "depth": DEPTHS,
        "size": SIZES,
        "code": CODE,
        "names": NAMES,
        "numbers": NUMBERS,
        "extends": FILES,
        "references": REFERENCES,
    }.items()
    for name, text in cases.items()
}

_EXECUTES = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
)
_executed: list[str] = []
_watching = False


def _watch(event: str, arguments: Any) -> None:
    if _watching and (event in _EXECUTES or (event == "import" and "canary" in str(arguments[0]))):
        _executed.append(f"{event} {arguments}")


sys.addaudithook(_watch)  # cannot be taken away again, hence the switch


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project beside modules that are on the path and that sing when they are imported, and files to extend."""
    canary = "import pathlib\npathlib.Path('executed').touch()\ndef sing(*_, **__): pathlib.Path('executed').touch()\n"
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "canary_package").mkdir(parents=True)
    for name in ("canary_module.py", "canary_package/__init__.py"):
        (elsewhere / name).write_text(canary)
    monkeypatch.syspath_prepend(elsewhere)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    monkeypatch.chdir(folder)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    for name in ("NOT_SET_AT_ALL", "NOT_SET_EITHER"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def to_extend(project: Path) -> None:
    """Files that extend many others."""
    for number in range(100):
        Path(f"chain-{number}.toml").write_text(f'extends = ["chain-{number + 1}.toml"]\n')
    for level in range(6):
        for number in range(1 << level):
            below = f'["tree-{level + 1}-{number * 2}.toml", "tree-{level + 1}-{number * 2 + 1}.toml"]'
            Path(f"tree-{level}-{number}.toml").write_text(f"extends = {below}\n")
    for number in range(3):
        Path(f"large-{number}.toml").write_text("#" * (MIB - 10))
    Path("circle.toml").symlink_to("circle.toml")


@pytest.fixture
def told(registry: Registry, project: Path) -> Iterator[Callable[..., str]]:
    """Return the message about a spec; check that it is quick and executes nothing."""
    global _watching
    Path("good.toml").write_text(GOOD)
    load_spec(Path("good.toml"), registry=registry)  # what is imported once is not the hostile file's doing
    for role in ("optimizer", "callback", "loss"):
        for entry in registry.entries(role):
            if entry.is_built_in:
                registry.load(role, entry.name)

    def tell(*arguments: Any) -> str:
        seconds = []
        for _ in range(10):
            start = time.process_time()
            with pytest.raises(SpecError) as caught:
                load_spec(*arguments, registry=registry)
            seconds.append(time.process_time() - start)
            if seconds[-1] < SECONDS:
                break
        assert min(seconds) < GATE
        return caught.value.message

    _watching = True
    _executed.clear()
    yield tell
    _watching = False
    assert not _executed
    assert not [name for name in sys.modules if name.startswith("canary")]
    assert not Path("executed").exists()


def _is_harmless(message: str) -> bool:
    """Return True if a message is short and has no control characters."""
    return 0 < len(message) < 100_000 and all(part.isprintable() for part in message.split("\n"))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_hostile_spec_is_reported_at_once_and_executes_nothing(told: Callable[..., str], to_extend: None, text: str):
    Path("a.toml").write_text(text, encoding="utf-8", newline="")
    message = told(Path("a.toml"))
    assert _is_harmless(message)
    assert VARIABLES["HOSTILE_SECRET"] not in message
    assert "\nerror: fine" not in message


@pytest.mark.parametrize("override", OVERRIDES.values(), ids=OVERRIDES)
def test_a_hostile_override_is_reported_at_once_and_executes_nothing(told: Callable[..., str], override: str):
    assert _is_harmless(told(Path("good.toml"), [override]))


def test_many_overrides_are_reported_at_once(told: Callable[..., str]):
    assert _is_harmless(told(Path("good.toml"), [f"model.k{number}=1" for number in range(200)]))


@pytest.mark.parametrize(
    "data", [b"\xff\xfe" * 1000, b"seed = 1\n\xed\xa0\x80", bytes(range(256)) * 4000, b"\xef\xbb\xbf" * 3]
)
def test_bytes_that_are_not_text_are_reported(told: Callable[..., str], data: bytes):
    Path("a.toml").write_bytes(data)
    assert _is_harmless(told(Path("a.toml")))


def test_the_name_of_a_file_does_not_reach_the_terminal_as_it_is(told: Callable[..., str]):
    Path("\x1b[2J.toml").write_text("sed = 1")
    assert _is_harmless(told(Path("\x1b[2J.toml")))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/", "/proc/self/mem", "a\0b", "x" * 5000, ""])
def test_a_hostile_path_is_reported(told: Callable[..., str], path: str):
    assert _is_harmless(told(Path(path)))


def test_a_spec_of_a_trusted_project_cannot_name_what_its_folder_shadows(told: Callable[..., str], project: Path):
    (project / "os.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    Path("a.toml").write_text(kind("os.system"))
    assert "a part of Python itself" in told(Path("a.toml"))
