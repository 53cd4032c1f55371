"""The fixtures that test authors get."""

from __future__ import annotations

import subprocess
import sys

import pytest

from noether.core.callbacks import PeriodicCallback
from noether.errors import PluginError
from noether.kernel.registry import Registry


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


def test_the_plugin_costs_a_test_run_no_torch():
    code = "import sys, noether.testing.pytest_plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
