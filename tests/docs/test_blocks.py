"""Code in the documentation is code that works: it parses, validates and runs."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import noether
from noether.cli.package import imports_of_others
from noether.errors import NoetherError
from noether.kernel.entries import Entry
from noether.kernel.registry import Registry
from noether.runs.prepare import rehearsal
from noether.spec.load import load_spec
from noether.spec.model import RunSpec


def test_every_toml_block_parses(pages):
    blocks = [block for page in pages for block in page.blocks("toml")]
    assert blocks, "no page has a TOML block: the pattern that finds them is broken"
    for block in blocks:
        try:
            tomllib.loads(block.text)
        except tomllib.TOMLDecodeError as error:
            pytest.fail(f"{block.place}: {error}")


def test_every_piece_of_a_spec_is_valid_in_a_spec(pages, page, repository: Path, project: Path, monkeypatch):
    """A whole spec as it is; a few tables in place of those of a shipped spec with the same data."""
    page["README.md"].write_files(project)
    monkeypatch.syspath_prepend(project)
    plugin = Entry("callback", "weight-norm", "weightnorm:WeightNormCallback", "noether-plugin-weightnorm", "0.1")
    registry = Registry([*Registry.installed().entries(), plugin])
    digits, terrain = (shipped(repository, name) for name in ("smoke/digits.toml", "experiment.toml"))
    pieces = [block for one in pages for block in one.blocks("toml") if is_piece_of_a_spec(block)]
    assert len(pieces) > 5
    for spec in (digits, terrain):
        del spec["expect"]  # what a piece replaces may be what logs the metric
        spec["datasets"]["val"] = spec["datasets"]["test"]
    for block in pieces:
        tables = tomllib.loads(block.text)
        if is_excerpt(block):
            callbacks = tables["trainer"]["callbacks"]
            logged = {one.get("dataset_key") for one in callbacks if one["kind"] == "offline-loss"}
            callbacks[:0] = [logs_losses(key) for key in ("val", "test") if key not in logged]
        is_whole = "kind" in tables.get("trainer", {})
        try:
            noether.load_spec(
                tables if is_whole else merged(terrain if "elevation" in block.text else digits, tables),
                registry=registry,
            )
        except NoetherError as error:
            pytest.fail(f"{block.place}: {error}")


def is_piece_of_a_spec(block) -> bool:
    return not block.mark and tomllib.loads(block.text).keys() <= RunSpec.model_fields.keys()


def is_excerpt(block) -> bool:
    """Return True if it shows one callback alone, without the one that logs its source metric."""
    return block.place.startswith("docs/reference/callbacks.md")


def logs_losses(key: str) -> dict[str, Any]:
    return {"id": f"losses-{key}", "kind": "offline-loss", "every_n_epochs": 1, "dataset_key": key}


def shipped(repository: Path, name: str) -> dict[str, Any]:
    return tomllib.loads((repository / "specs" / name).read_text())


def merged(base: dict[str, Any], tables: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(base[key], value) for key, value in tables.items() if nested(base.get(key)) and nested(value)}
    return {**base, **tables, **both}


def nested(value: Any) -> bool:
    return isinstance(value, dict)


def test_every_python_block_compiles(pages):
    for block in (block for page in pages for block in page.blocks("python")):
        try:
            compile(block.text, block.place, "exec")
        except SyntaxError as error:
            pytest.fail(f"{block.place}: {error}")


def test_blocks_that_are_marked_runnable_run(pages, repository: Path, workplace: Path):
    shutil.copytree(repository / "specs", workplace / "specs")
    blocks = [block for page in pages for block in page.blocks("python") if block.mark == "runnable"]
    assert blocks
    for block in blocks:
        exec(compile(block.text, block.place, "exec"), {})


def test_the_project_with_its_own_model_data_and_loss_learns(page, project: Path):
    how_to = page["use-your-own-model-data-and-loss.md"]
    how_to.write_files(project)
    (make_data,) = [block.text for block in how_to.blocks("python") if block.mark.startswith("run: ")]
    exec(make_data, {})
    quick = {"trackers": [{"kind": "noop"}]}
    from_file = noether.run("waves.toml", set=quick, quiet=True)
    assert from_file.error is None
    assert from_file.metrics["rmse/test/height"] < 0.5
    own = {"datasets.train": {"kind": "surrogate.data.Waves", "samples": 64}, "trainer.max_epochs": 5}
    assert noether.run("waves.toml", set={**quick, **own}, quiet=True).status == "FINISHED"
    (damped,) = [tomllib.loads(block.text) for block in how_to.blocks("toml") if "DampedTrainer" in block.text]
    damped["trainer"]["max_epochs"] = 1
    outcome = noether.run("waves.toml", set={**quick, **damped}, quiet=True)
    assert outcome.error is None
    assert {key.split("/")[2] for key in outcome.metrics if key.startswith("loss/online/")} == {
        "error", "penalty", "total"
    }  # fmt: skip


def test_samples_of_different_sizes_are_batched_as_the_page_shows(page, project: Path):
    how_to = page["batch-samples-of-different-sizes.md"]
    how_to.write_files(project)
    quick = {"trackers": [{"kind": "noop"}], "trainer.max_epochs": 1}
    assert noether.run("clouds.toml", set=quick, quiet=True).error is None
    parts = [tomllib.loads(block.text)["datasets"]["train"] for block in how_to.blocks("toml")[1:3]]
    assert [part["collate"]["kind"] for part in parts] == ["pad", "clouds.batches.cut"]
    for part in parts:
        assert noether.run("clouds.toml", set={**quick, "datasets.train": part}, quiet=True).error is None


def test_the_trained_beams_predict_the_stress_in_pascals(page, project: Path):
    how_to = page["predict.md"]
    how_to.write_files(project)
    make_data, use = [block.text for block in how_to.blocks("python") if block.mark.startswith("run: ")]
    exec(make_data, {})
    spec = tomllib.loads((project / "beams.toml").read_text())
    assert noether.run({**spec, "trackers": [{"kind": "noop"}]}, run_id="beams", quiet=True).error is None
    found: dict[str, Any] = {}
    exec(use, found)
    assert found["stress"][:, 0] == pytest.approx([3_000 * 2500 * 3.5, 3_000 * 7000 * 5], rel=0.1)
    assert found["one"] == pytest.approx(found["stress"][0])
    assert len(found["errors"]) == 4


def test_the_callback_that_logs_a_metric_logs_it(page, repository: Path, project: Path):
    how_to = page["log-a-metric.md"]
    how_to.write_files(project)
    (block,) = how_to.blocks("toml")
    spec = shipped(repository, "smoke/digits.toml")
    del spec["expect"]
    spec["trainer"] |= {"max_epochs": 1, **tomllib.loads(block.text)["trainer"]}
    outcome = noether.run({**spec, "trackers": [{"kind": "noop"}]}, quiet=True)
    assert outcome.error is None
    assert outcome.metrics["profiling/samples_per_second"] > 0


@pytest.mark.long
def test_the_readmes_plugin_installs_and_its_spec_logs(page, workplace: Path):
    readme = page["README.md"]
    readme.write_files(workplace)
    site = installed(workplace)
    pieces = [block.text for block in readme.blocks("toml") if is_piece_of_a_spec(block)]
    (workplace / "readme.toml").write_text("\n".join(pieces))
    options = ["-s", "trainer.max_epochs=1"]
    assert "weights/norm" in metrics_of_a_run("readme.toml", *options, folder=workplace, site=site)


def installed(package: Path) -> Path:
    """Install the package in `package` for the tests alone; return the folder that it is in."""
    site = package / "site"
    offline = ["--no-build-isolation", "--no-deps", "--no-index"]
    in_python("-m", "pip", "install", "-q", *offline, "--target", str(site), ".", folder=package, site=site)
    return site


def metrics_of_a_run(spec: str, *options: str, folder: Path, site: Path) -> str:
    quick = ["-q", "--run-id", "mine", "-s", 'trackers=[{kind="noop"}]']
    noether_command("run", spec, *quick, *options, folder=folder, site=site)
    return (folder / "runs/mine/metrics.jsonl").read_text()


def noether_command(*arguments: str, folder: Path, site: Path) -> str:
    return in_python("-m", "noether", *arguments, folder=folder, site=site)


def in_python(*arguments: str, folder: Path, site: Path) -> str:
    command, environment = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_code_of_the_documentation_imports_public_names_only(pages):
    blocks = [block for page in pages for block in page.blocks("python")]
    found = [f"{block.place}: {one}" for block in blocks for one in imports_of_others(ast.parse(block.text))]
    assert len(blocks) > 40 and not found


def test_a_data_set_that_stays_on_disk_serves_the_numbers_of_its_file(page, project: Path):
    page["use-your-own-model-data-and-loss.md"].write_files(project)
    rows = np.random.default_rng(0).normal(1e6, 1e-3, (100, 2))
    rows.tofile("waves.bin")
    normalize = {"kind": "normalize", "properties": ["x", "height_target"]}
    changes = {
        "datasets.train": {"kind": "surrogate.stored.Logbook", "path": "waves.bin"},
        "datasets.test": None,
        "transforms": [normalize],
        "trainer.callbacks": [],
        "trackers": [{"kind": "noop"}],
    }
    with rehearsal(load_spec("waves.toml", set=changes)) as run:
        batch = run.data.train.__getitems__([7, 0])
    expected = ((rows - rows.mean(0)) / rows.std(0))[[7, 0]]
    assert np.allclose(batch["x"][:, 0], expected[:, 0], atol=1e-4), "float32 would have lost them"
    assert np.allclose(batch["height_target"][:, 0], expected[:, 1], atol=1e-4)
