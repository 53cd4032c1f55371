import datetime
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from noether.config.base import component_of
from noether.errors import SpecError
from noether.kernel.registry import active_registry


@pytest.fixture
def spec_file(tmp_path: Path, tables: dict) -> Path:
    """A spec in the folder `specs` of a project."""
    (tmp_path / "pyproject.toml").touch()
    path = tmp_path / "specs" / "My Run (2).toml"
    path.parent.mkdir()
    del tables["name"]
    path.write_text("# why\n" + tomli_w.dumps(tables))
    return path


def test_a_file_is_loaded_with_its_text_and_its_project(load: Callable, spec_file: Path):
    loaded = load(spec_file)
    assert loaded.path == spec_file
    assert loaded.source_text == spec_file.read_text()
    assert loaded.project_folder == spec_file.parents[1]


def test_a_spec_without_a_project_has_its_own_folder(load: Callable, spec_file: Path):
    (spec_file.parents[1] / "pyproject.toml").unlink()
    assert load(spec_file).project_folder == spec_file.parent


def test_a_spec_above_another_project_belongs_to_its_own_folder(load: Callable, spec_file: Path, monkeypatch):
    (spec_file.parents[1] / "pyproject.toml").unlink()
    package = spec_file.parent / "package"
    package.mkdir()
    (package / "pyproject.toml").touch()
    monkeypatch.chdir(package)
    assert load(Path("..") / spec_file.name).project_folder == spec_file.parent


def test_the_name_is_the_file_name_unless_given(load: Callable, spec_file: Path):
    assert load(spec_file).spec.name == "my-run-2"
    assert load(spec_file, ["name=other"]).spec.name == "other"


def test_a_dict_is_loaded_and_left_as_it_is(load: Callable, tables: dict):
    loaded = load(tables, set={"seed": 7})
    assert loaded.spec.seed == 7
    assert loaded.path is None
    assert "seed" not in tables


def test_overrides_lie_on_top_of_the_file_and_values_on_top_of_those(load: Callable, spec_file: Path):
    loaded = load(spec_file, ["seed=1", "trainer.max_epochs=5"], set={"seed": 2, "model.optimizer.lr": 0.5})
    assert (loaded.spec.seed, loaded.spec.trainer.max_epochs, loaded.spec.model.optimizer.lr) == (2, 5, 0.5)


def test_none_removes_what_the_spec_says(load: Callable, tables: dict):
    spec = load(tables, set={"trainer.max_epochs": None, "trainer.max_updates": 3}).spec
    assert (spec.trainer.max_epochs, spec.trainer.max_updates) == (None, 3)


def test_a_value_from_python_is_checked_as_strictly_as_toml(refused: Callable, tables: dict):
    assert refused(tables, set={"seed": "1"}).codes == ["wrong-type seed"]


def test_dates_and_paths_become_text(load: Callable, tables: dict, tmp_path: Path):
    tables["output"] = tmp_path
    tables["name"] = datetime.date(2026, 1, 2)
    spec = load(tables).spec
    assert (spec.output, spec.name) == (str(tmp_path), "2026-01-02")


def test_configs_that_were_built_by_hand_are_tables_too(load: Callable, tables: dict):
    built = load(tables).spec
    assert load({**tables, "model": built.model, "trainer": built.trainer}).spec == built


def test_kinds_are_canonical_and_know_their_component(load: Callable, tables: dict):
    tables["model"]["kind"] = "NET"
    tables["model"]["optimizer"]["kind"] = "torch.optim.AdamW"
    model = load(tables).spec.model
    assert (model.kind, model.optimizer.kind) == ("net", "AdamW")
    assert component_of(model).target.__name__ == "Net"
    assert component_of(model.optimizer).origin == "noether-train 0.1.0"


def test_no_tracker_means_mlflow_and_an_empty_list_none(load: Callable, tables: dict):
    assert [tracker.kind for tracker in load(tables).spec.trackers] == ["mlflow"]
    assert load({**tables, "trackers": []}).spec.trackers == []


def test_input_paths_start_at_the_spec_file_and_the_output_at_the_working_folder(load: Callable, spec_file: Path):
    extra = '["a", "/b", "https://c/d"]'
    paths = f'[datasets.train]\nkind = "points"\nroot = "../data"\nextra = {extra}\n'
    spec_file.write_text(spec_file.read_text().replace('[datasets.train]\nkind = "points"\n', paths))
    spec = load(spec_file, ["output=out"]).spec
    assert spec.datasets["train"].root == spec_file.parent / "../data"
    assert spec.datasets["train"].extra == [str(spec_file.parent / "a"), "/b", "https://c/d"]
    assert spec.datasets["test"].root is None
    assert spec.output == "out"


def test_input_paths_of_a_dict_start_at_the_working_folder(load: Callable, tables: dict, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(tables, ["datasets.train.root=data"]).spec.datasets["train"].root == tmp_path / "data"


def test_the_home_folder_may_be_abbreviated(load: Callable, tables: dict):
    assert load(tables, ["datasets.train.root='~/data'"]).spec.datasets["train"].root == Path.home() / "data"


def test_loading_leaves_the_active_registry_as_it_was(load: Callable, tables: dict):
    before = active_registry()
    load(tables)
    with pytest.raises(SpecError):
        load({**tables, "sed": 1})
    assert active_registry() is before


def test_neither_spec_nor_schemas_import_torch():
    code = (
        "import sys, pkgutil, importlib, noether.spec, noether.config\n"
        "for package in (noether.spec, noether.config):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print({'torch', 'numpy', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
