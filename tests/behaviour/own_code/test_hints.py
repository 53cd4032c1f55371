"""Hints about own code: each can be typed as it is printed, and none names a package that is not one."""

import shlex
import sys

import pytest
import tomli_w

import noether
from noether.errors import NoetherError, SpecError
from noether.spec.errors.problem import InvalidSpecError

BROKEN = "class Net(Line):\n    def __init__(self, width: int = 1):\n        raise ValueError('no')\n"


def _command(error: NoetherError) -> str:
    return (error.hint or "").partition(": ")[2]


def test_the_command_of_a_failed_constructor_lists_its_options(own, tiny_spec, noether_command):
    own(BROKEN)
    with pytest.raises(SpecError) as caught:
        noether.run(tiny_spec, set={"model": {"kind": "own.Net", "optimizer": "SGD"}}, quiet=True)
    shown = noether_command(*shlex.split(_command(caught.value))[1:])
    assert (shown.code, "width" in shown.out) == (0, True)


def test_the_command_for_a_trusted_package_trusts_it(tiny_spec, noether_command, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("site")
    (folder / "zoo_of_faults.py").write_text("from torch import nn\n\n" + BROKEN.replace("Line", "nn.Module"))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("noether.kernel.registry._distribution_of", lambda package: "pytest")
    with pytest.raises(SpecError) as caught:
        noether.run(
            tiny_spec,
            set={"model": {"kind": "zoo_of_faults.Net", "optimizer": "SGD"}},
            trust=["zoo_of_faults"],
            quiet=True,
        )
    shown = noether_command(*shlex.split(_command(caught.value))[1:])
    assert (shown.code, "width" in shown.out) == (0, True)
    sys.modules.pop("zoo_of_faults")


def test_code_of_another_folder_is_named_with_it(own, tiny_spec, workplace, monkeypatch):
    own(BROKEN)
    spec = workplace / "spec.toml"
    spec.write_text(tomli_w.dumps(tiny_spec | {"model": {"kind": "own.Net", "optimizer": {"kind": "SGD"}}}))
    (workplace / "below").mkdir()
    monkeypatch.chdir(workplace / "below")
    with pytest.raises(SpecError) as caught:
        noether.run(spec, quiet=True)
    assert f"(in {workplace.resolve()})" in (caught.value.hint or "")


def test_a_refused_change_of_a_run_with_own_code_names_no_package(own, finish, noether_command):
    own("class Net(Line):\n    def __init__(self, width: int = 1):\n        super().__init__(width)\n")
    changes = {"model": {"kind": "own.Net", "optimizer": {"kind": "SGD", "lr": 0.1}}, "trainer.max_epochs": 1}
    finish(changes, run_id="first")
    ended = noether_command("resume", "runs/first", "-s", "trainer.max_epochs=2", "-s", "model.optimizer.lr=0.2")
    assert ended.code == 2
    assert "model.optimizer.lr" in ended.err
    assert "pip install" not in ended.err


@pytest.mark.parametrize("kind", ["nowhere/net", "own_nowhere.Net"])
def test_a_kind_that_nobody_has_names_no_package_to_install(tiny_spec, kind):
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(tiny_spec, set={"model": {"kind": kind, "optimizer": "SGD"}})
    assert not any("pip install" in (problem.hint or "") for problem in caught.value.problems)


def test_a_module_that_own_code_misses_is_no_package_to_install(tiny_spec, workplace, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (workplace / "own_half.py").write_text("import own_missing_module\n")
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(tiny_spec, set={"model": {"kind": "own_half.Net", "optimizer": "SGD"}})
    (problem,) = caught.value.problems
    assert "own_missing_module" in (problem.hint or "")
    assert "pip install" not in (problem.hint or "")
