"""The plugin of the page about commands, made of its own code blocks and installed with pip."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs/how-to/add-a-command.md"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages that holds nothing but the plugin."""
    package = tmp_path / "noether-plugin-disk"
    package.mkdir()
    for language in ("toml", "python"):
        for name, text in re.findall(rf"```{language}\n# (.*?)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
            (package / name).write_text(text)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*install, str(tmp_path / "site"), str(package)], check=True, capture_output=True)
    return tmp_path / "site"


@pytest.mark.slow
def test_an_installed_command_is_listed_and_called(site: Path, workplace: Path) -> None:
    def noether(*arguments: str) -> str:
        command = [sys.executable, "-m", "noether", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert "From noether-plugin-disk 0.1." in noether("--help")
    Path("runs/one").mkdir(parents=True)
    Path("runs/one/log.txt").write_text("x" * 2000)
    assert noether("disk-usage", "runs/one") == "runs/one: 2,000 bytes\n"


def test_a_command_takes_the_options_of_a_spec_and_gives_them_on(
    install, noether_command, spec_file, tiny_spec
) -> None:
    (code,) = (
        text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL) if "verbs()" in text
    )
    install("noether-plugin-name", {"commands": {"spec-name": "noether_plugin_name:app"}}, noether_plugin_name=code)
    options = ["-s", "name=other", "--unset", "threads", "-s", "seed=3", "--trust", "json"]
    ended = noether_command("spec-name", spec_file(tiny_spec), *options)
    assert (ended.out, ended.err) == (f"other {' '.join(options)}\n", "")
    assert noether_command("spec-name", spec_file(tiny_spec), "-s", "sead=3").code == 2


def test_taken_names_are_listed_qualified_and_reached_so(install, noether_command) -> None:
    install("noether-plugin-one", {"commands": {"run": "one:go", "both": "one:go"}}, one="raise RuntimeError('no')")
    install("noether-plugin-two", {"commands": {"both": "two:go"}}, two="def go(): print('two went')")
    listed = noether_command("--help").out
    assert all(name in listed for name in ("one/run", "one/both", "two/both", "From noether-plugin-one 1.0."))
    assert "two went" in noether_command("two/both").out
    contested = noether_command("both")
    assert contested.code == 2
    assert all(part in contested.err for part in ("noether-plugin-one 1.0", "noether-plugin-two 1.0", "two/both"))
    broken = noether_command("one/run")
    assert broken.code == 2
    assert "noether-plugin-one 1.0" in broken.err
