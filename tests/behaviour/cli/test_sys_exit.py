"""Code that a spec names and that calls `sys.exit` does not end a verb as if it had done its work."""

import pytest

PLUGIN = """
import sys
import noether

@noether.hookimpl
def configure_spec(spec):
    sys.exit({code})
"""
CALLBACK = """
import sys
from noether.core.callbacks.periodic import PeriodicCallback

class Quits(PeriodicCallback):
    def at_eval(self):
        sys.exit()
"""


@pytest.mark.parametrize("code", ["", "0", "7", "'done'"])
@pytest.mark.parametrize("verb", [["run"], ["plan"], ["check", "--deep"]], ids=" ".join)
def test_a_plugin_that_exits_before_the_run_is_an_error(verb, code, lab, noether_command, spec_file):
    (lab / "quits.py").write_text(PLUGIN.format(code=code))
    ended = noether_command(*verb, spec_file(), "-p", "lab.quits")
    assert ended.code == 2  # wrong plugin, before training
    assert "quits.py" in ended.err
    assert "configure_spec" in ended.err


def test_a_callback_that_exits_in_an_evaluation_is_an_error(lab, noether_command, spec_file):
    (lab / "quits.py").write_text(CALLBACK)
    path = spec_file()
    path.write_text(path.read_text() + '[[trainer.callbacks]]\nkind = "lab.quits.Quits"\nevery_n_epochs = 1\n')
    assert noether_command("run", path, "--run-id", "a", "-q").code == 0
    ended = noether_command("eval", "a")
    assert ended.code == 1
    assert "at_eval" in ended.err
