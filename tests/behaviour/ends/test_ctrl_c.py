"""Ctrl-C at any moment from the start of the command: exit code 130 and one line, never a traceback."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tomli_w

DEADLINE_S = 120
COMMAND = ["run", "long.toml", "--quiet"]

AT_AN_IMPORT = """
    import os, signal, sys
    imports = 0
    def at_an_import(event, arguments):
        global imports
        if event == "import" and signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            imports += 1
            if imports == {number}:
                os.kill(os.getpid(), signal.SIGINT)
    sys.addaudithook(at_an_import)
    sys.argv = ["noether", *{command!r}]
    from noether.__main__ import main
    main()
"""

LISTENING = """
    import os, sys
    from noether.cli.interrupts import CTRL_C
    CTRL_C.listen()
    os.write(1, b"!")
    sys.argv = ["noether", *{command!r}]
    from noether.__main__ import main
    main()
"""


@pytest.fixture
def long_run(tiny_spec):
    tiny_spec["trainer"]["max_epochs"] = 10_000_000
    Path("long.toml").write_text(tomli_w.dumps(tiny_spec))


def listens():
    """Undo that a shell's background job ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def python(code, **values):
    return [sys.executable, "-c", textwrap.dedent(code).format(**values)]


def check(code, err):
    assert code == 130, err
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err
    assert len(err.splitlines()) <= 1


@pytest.mark.parametrize(
    "number", [1, 50, 400, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 7, 150, 250, 600, 900, 1200, 1500))]
)
def test_ctrl_c_in_any_import_ends_the_command_with_one_line(long_run, number):
    code = python(AT_AN_IMPORT, number=number, command=COMMAND)
    ended = subprocess.run(code, capture_output=True, text=True, timeout=DEADLINE_S, preexec_fn=listens, check=False)
    check(ended.returncode, ended.stderr)
    assert ended.stderr == "interrupted\n"


@pytest.mark.parametrize("place", ["import", "constructor"])
def test_ctrl_c_in_code_of_the_project_ends_the_command_with_one_line(tiny_spec, lab, place):
    sends = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    code = sends if place == "import" else f"def load():\n{textwrap.indent(sends, '    ')}"
    (lab / "sends.py").write_text(f"{code}\nload = globals().get('load')\n")
    tiny_spec["datasets"]["train"] = {"kind": "lab.sends.load"}
    Path("sends.toml").write_text(tomli_w.dumps(tiny_spec))
    command = [str(Path(sys.executable).with_name("noether")), "run", "sends.toml"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, preexec_fn=listens, check=False)
    check(ended.returncode, ended.stderr)
    assert ended.stderr == "interrupted\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 40))])
def test_ctrl_c_at_any_moment_ends_the_command_with_130(long_run, seed):
    code = python(LISTENING, command=COMMAND)
    process = subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listens)
    assert process.stdout.read(1) == b"!"
    time.sleep(random.Random(seed).uniform(0, 4))
    os.kill(process.pid, signal.SIGINT)
    try:
        _, err = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    check(process.returncode, err.decode())
