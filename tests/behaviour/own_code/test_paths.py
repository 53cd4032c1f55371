"""Paths in a spec start at the folder of the file that names them; those of the command line at the working folder."""

from pathlib import Path

import pytest
import tomli_w

import noether
from noether.spec.load import load_spec
from noether.spec.model import resolved_tables

READER = """
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Source:
        file: Path = Path("inner")

    class Reader(Samples):
        def __init__(self, root: Path, either: str | Path | None = None, many: list[Path] = (),
                     pair: tuple[Path, int] = None, table: dict[str, Path] = None, source: Source = Source(),
                     default: Path = Path("default"), name: str | Path = "imagenet", text: str = "data"):
            GIVEN.append((root, either, many, pair, table, source.file, default, name, text))

    class ReaderConfig(DatasetBaseConfig):
        root: Path

    class Configured(Samples):
        def __init__(self, dataset_config: ReaderConfig):
            GIVEN.append(dataset_config.root)
"""


@pytest.fixture
def write(tiny_spec, workplace):
    def written(path: str, **tables) -> Path:
        file = workplace / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(tomli_w.dumps(tables))
        return file

    return written


def _reader(**options):
    return {"train": {"kind": "own.Reader", **options}}


def test_every_path_of_a_class_starts_at_the_folder_of_the_spec(own, tiny_spec, write, workplace):
    module = own(READER)
    paths = {"root": "data", "either": "e", "many": ["a", "b"], "pair": ["p", 1], "table": {"t": "t"}}
    spec = write("specs/a.toml", **{**tiny_spec, "datasets": _reader(**paths, source={"file": "s"})})
    noether.run(spec, project=workplace, run_id="a", quiet=True, set={"trainer.max_epochs": 1})
    here = workplace / "specs"
    expected = (here / "data", here / "e", [here / "a", here / "b"], (here / "p", 1), {"t": here / "t"}, here / "s")
    assert [(*expected, here / "default", "imagenet", "data")] == module.GIVEN
    module.GIVEN.clear()
    (workplace / "runs/a").rename(workplace / "moved")
    load = noether.run(workplace / "moved/spec.resolved.toml", project=workplace, run_id="b", quiet=True)
    assert load.status == "FINISHED"
    assert [(*expected, here / "default", "imagenet", "data")] == module.GIVEN


def _root(loaded) -> str:
    return resolved_tables(loaded.spec)["datasets"]["train"]["root"]


def test_a_path_of_an_extended_file_starts_at_that_file_and_one_of_an_argument_at_the_working_folder(
    own, tiny_spec, write, workplace, monkeypatch
):
    own(READER)
    write("base/base.toml", **{**tiny_spec, "datasets": _reader(root="data")})
    spec = write("specs/a.toml", extends=["../base/base.toml"])
    monkeypatch.setenv("DATA", "from-env")
    assert _root(load_spec(spec, project=workplace)) == str(workplace / "base/data")
    assert _root(load_spec(spec, ["datasets.train.root=here"], project=workplace)) == str(workplace / "here")
    assert _root(load_spec(spec, set={"datasets.train.root": "here"}, project=workplace)) == str(workplace / "here")
    assert _root(load_spec(spec, set={"datasets.train.root": Path("/there")}, project=workplace)) == "/there"


def test_a_path_of_the_environment_starts_at_the_working_folder_and_its_default_at_the_file(
    own, tiny_spec, write, workplace, monkeypatch
):
    module = own(READER)
    spec = write("specs/a.toml", **{**tiny_spec, "datasets": _reader(root={"env": "DATA", "default": "data"})})
    assert _root(load_spec(spec, project=workplace)) == {"env": "DATA", "default": str(workplace / "specs/data")}
    monkeypatch.setenv("DATA", "from-env")
    loaded = load_spec(spec, project=workplace)
    assert loaded.spec.datasets["train"].root == workplace / "from-env"
    assert module.GIVEN == []


def test_a_path_of_a_config_starts_at_the_folder_of_the_spec(own, tiny_spec, write, workplace):
    own(READER)
    spec = write("specs/a.toml", **{**tiny_spec, "datasets": {"train": {"kind": "own.Configured", "root": "data"}}})
    assert _root(load_spec(spec, project=workplace)) == str(workplace / "specs/data")
