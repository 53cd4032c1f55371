"""Dotted paths that a spec may name; the project's code is in folders that tests write."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from noether.errors import PluginError
from noether.kernel.entries import Entry
from noether.kernel.registry import Registry

MODULE = """
import os
import subprocess
from functools import partial
from json import loads as from_elsewhere

from torch.nn.functional import huber_loss


def my_loss(input, target):
    return (input - target).abs().mean()


soft = partial(huber_loss, delta=0.1)
run_anything = partial(subprocess.run, shell=True)


class Inner:
    os = os
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, name: str, text: str = MODULE) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)


def refused(registry: Registry, kind: str, role: str = "loss") -> str:
    with pytest.raises(PluginError) as caught:
        registry.load(role, kind)
    return str(caught.value)


@pytest.mark.parametrize(
    "kind",
    [
        "os.system",
        "builtins.eval",
        "posix.system",
        "subprocess.run",
        "torch.hub.os.system",
        "torch.os.system",
    ],
)
def test_python_itself_is_never_named(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("called"))
    assert "--trust" not in refused(Registry((), trusted=["os", "builtins", "posix", "subprocess"]), kind)


def test_refused_package_is_not_imported(project: Path):
    write(project, "stranger", "raise SystemExit('imported')")
    sys.path.append(str(project))
    text = refused(Registry(()), "stranger.my_loss")
    assert "'stranger' is not trusted" in text
    assert "if you trust it: --trust stranger" in text
    assert "stranger" not in sys.modules


@pytest.mark.parametrize(("kind", "meant"), [("aeroo.nets.Net", "aero"), ("torhc.nn.functional.l1_loss", "torch")])
def test_misspelt_package_is_reported_with_the_nearest_one(project: Path, kind: str, meant: str):
    write(project, "aero")
    text = refused(Registry((), project_folders=[project]), kind)
    top = kind.partition(".")[0]
    assert text == (
        f"kind '{kind}' is not imported: '{top}' is not trusted; a spec may name code of noether, torch, "
        f"installed plugins and its own project. Did you mean '{meant}'?"
    )


def test_installed_package_is_not_taken_for_a_misspelling(project: Path):
    write(project, "scikit")
    write(project, "numpyy")
    assert "Did you mean" not in refused(Registry((), project_folders=[project]), "numpy.mean")


def test_trusted_package_is_imported(project: Path):
    write(project, "acquaintance")
    sys.path.append(str(project))
    assert Registry((), trusted=["acquaintance"]).load("loss", "acquaintance.my_loss").entry is None
    assert "acquaintance" in sys.modules


def test_package_below_the_project_that_is_trusted_by_name_too_is_found(project: Path):
    write(project, "doubly_trusted")
    registry = Registry((), trusted=["doubly_trusted"], project_folders=[project])
    assert registry.load("loss", "doubly_trusted.my_loss").kind == "doubly_trusted.my_loss"


@pytest.mark.parametrize("place", [".", "src"])
def test_code_of_the_project_is_imported_from_its_folder_or_its_src(project: Path, place: str):
    write(project / place, "project_losses")
    component = Registry((), project_folders=[project]).load("loss", "project_losses.my_loss")
    assert (component.kind, component.origin) == ("project_losses.my_loss", "project code")
    assert sys.path[-1] == str((project / place).resolve())


def test_project_may_reexport_what_a_spec_may_name(project: Path):
    write(project, "project_exports")
    registry = Registry((), project_folders=[project])
    assert registry.load("loss", "project_exports.huber_loss").target.__module__ == "torch.nn.functional"
    assert callable(registry.load("loss", "project_exports.soft").target)


@pytest.mark.parametrize("path", ["from_elsewhere", "os.system", "Inner.os.system", "run_anything"])
def test_project_does_not_open_other_packages(project: Path, path: str):
    write(project, "project_bridge")
    assert "which specs may not import" in refused(Registry((), project_folders=[project]), f"project_bridge.{path}")


def test_installed_package_is_not_the_projects_because_a_folder_has_its_name(project: Path):
    write(project, "sklearn")
    text = refused(Registry((), project_folders=[project]), "sklearn.my_loss")
    assert "is hidden by another 'sklearn'" in text
    assert "--trust sklearn" in text


def test_code_of_a_second_project_names_the_first_that_hides_it(project: Path):
    for name in ("first", "second"):
        write(project / name, "namesake")
    Registry((), project_folders=[project / "first"]).load("loss", "namesake.my_loss")
    text = refused(Registry((), project_folders=[project / "second"]), "namesake.my_loss")
    assert all(str(project / name) in text for name in ("first", "second"))
    assert "use a process for each project" in text
    assert "--trust" not in text


def test_package_outside_of_the_project_is_not_its_own(project: Path):
    write(project / "elsewhere", "outsider")
    registry = Registry((), project_folders=[project / "inside"])
    assert "'outsider' is not trusted" in refused(registry, "outsider.my_loss")


def test_link_out_of_the_project_is_not_followed(project: Path):
    write(project / "elsewhere", "linked")
    (project / "inside").mkdir()
    (project / "inside" / "linked.py").symlink_to(project / "elsewhere" / "linked.py")
    assert "'linked' is not trusted" in refused(Registry((), project_folders=[project / "inside"]), "linked.my_loss")


def test_installed_packages_are_not_project_code():
    registry = Registry((), project_folders=[Path(sysconfig.get_path("purelib"))])
    assert "'sklearn' is not trusted" in refused(registry, "sklearn.metrics.mean_squared_error")


def test_project_code_has_no_version_though_a_distribution_has_its_name(project: Path):
    write(project, "scikit_learn")
    registry = Registry((), project_folders=[project])
    assert registry.load("loss", "scikit_learn.my_loss").origin == "project code"


def test_package_of_a_plugin_is_trusted(project: Path):
    write(project, "noether_x")
    sys.path.append(str(project))
    registry = Registry([Entry("callback", "x", "noether_x:X", "noether-plugin-x", "1.2")])
    assert registry.load("loss", "noether_x.my_loss").origin == "noether-plugin-x 1.2"


@pytest.mark.parametrize(
    "kind", ["torch..nn", "torch.nn.", ".torch", "torch.nn:functional:l1_loss", "torch.__builtins__.eval"]
)
def test_malformed_path_is_refused(kind: str):
    assert "expected a dotted path of Python names" in refused(Registry(()), kind)


def test_missing_attribute_names_the_nearest():
    assert "torch.nn.functional has no 'l1_los'. Did you mean 'l1_loss'?" in refused(
        Registry(()), "torch.nn.functional.l1_los"
    )


def test_attribute_of_a_function_is_not_followed():
    assert "expected a module or a class" in refused(Registry(()), "torch.nn.functional.l1_loss.call")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import missing_package", "the package that has the module 'missing_package'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_failing_import_of_project_code_names_its_line(project: Path, text: str, reason: str):
    write(project, "project_broken", f"\n{text}\n")
    message = refused(Registry((), project_folders=[project]), "project_broken.my_loss")
    assert reason in message
    assert "project_broken.py:2)" in message
