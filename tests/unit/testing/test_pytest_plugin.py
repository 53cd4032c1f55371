"""The fixtures that test authors get."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import ClassVar

import pytest

from noether.core.callbacks import PeriodicCallback
from noether.errors import PluginError
from noether.kernel.registry import Registry
from noether.testing import CallbackContract
from noether.testing.pytest_plugin import pytest_pyfunc_call


class Counts(PeriodicCallback):
    """Logs the update."""

    def periodic_callback(self, *, update_counter, **_):
        self.writer.add_scalar("seen", update_counter.update)


def test_tiny_run_trains_and_returns_the_outcome(tiny_run):
    outcome = tiny_run(trainer={"max_updates": 3})
    assert (outcome.status, outcome.error) == ("FINISHED", None)


def test_run_folder_is_that_of_a_finished_run(run_folder):
    assert (run_folder / "spec.resolved.toml").is_file()


def test_spec_file_takes_toml(spec_file):
    assert spec_file("spec = 1\n").read_text() == "spec = 1\n"


def test_registered_callback_is_named_by_its_kind(noether_registry, tiny_run):
    noether_registry("callback", "counts", Counts)
    outcome = tiny_run(trainer={"callbacks": [{"kind": "counts", "every_n_updates": 1}]})
    assert outcome.metrics["seen"] == 12


def test_isolated_registry_has_no_installed_plugin(noether_registry):
    with pytest.raises(PluginError):
        Registry.installed().find("callback", "grad-norm")


class Broken(CallbackContract):
    """Its spec has an option that is misspelt."""

    config: ClassVar = {"kind": "ema", "every_n_update": 1}


def test_a_wrong_spec_of_a_contract_is_shown_as_its_message_alone(tmp_path):
    with pytest.raises(pytest.fail.Exception) as failed, failing(Broken):
        Broken().test_a_run_of_two_epochs_trains(tmp_path)
    assert not failed.value.pytrace
    assert "every_n_update" in str(failed.value)


def test_a_wrong_spec_of_another_test_keeps_its_traceback():
    for other in (None, type("TestOther", (), {})):
        with pytest.raises(PluginError), failing(other):
            raise PluginError("of the author's own")


@contextmanager
def failing(tested: type | None):
    """Hand an error of the block to the hook, as pytest does with an error of a test in this class."""
    hook = pytest_pyfunc_call(SimpleNamespace(cls=tested))
    next(hook)
    try:
        yield
    except Exception as error:
        hook.throw(error)


def test_the_plugin_costs_a_test_run_no_torch():
    code = "import sys, noether.testing.pytest_plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
