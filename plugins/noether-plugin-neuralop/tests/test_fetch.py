"""The command writes the tensors of a wheel, of the right one alone, and runs no code of it."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
import torch
from noether_plugin_neuralop import fetch
from noether_plugin_neuralop.data import DarcyConfig, DarcyDataset

from noether.errors import DataError, UsageError

METADATA = "Metadata-Version: 2.1\nName: neuraloperator\nVersion: 0.3.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
INFO = "neuraloperator-0.3.0.dist-info"


def write_wheel(folder: Path, **replaced: object) -> Path:
    """Write a wheel as that of neuraloperator 0.3.0, with two samples in each file."""
    stored: dict[str, object] = {
        name: {"x": torch.ones(2, size, size, dtype=torch.bool), "y": torch.rand(2, size, size)}
        for name, size in (("darcy_train_16", 16), ("darcy_test_16", 16), ("darcy_test_32", 32))
    }
    stored["burgers_lowres"] = {"input": torch.zeros(2, 16), "output": torch.zeros(2, 17, 16), "visc": torch.ones(1, 1)}
    path = folder / "neuraloperator-0.3.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in {**stored, **replaced}.items():
            buffer = io.BytesIO()
            torch.save(value, buffer)
            archive.writestr(f"neuralop/datasets/data/{name}.pt", buffer.getvalue())
        for name, text in (("LICENSE", "MIT License"), ("METADATA", METADATA), ("WHEEL", WHEEL), ("RECORD", "")):
            archive.writestr(f"{INFO}/{name}", text)
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return accepted(write_wheel(tmp_path), monkeypatch)


def accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_the_data_sets_read_what_it_writes(wheel: Path, tmp_path: Path):
    fetch.neuralop_data(tmp_path / "data", wheel)
    config = DarcyConfig(kind="darcy", folder=str(tmp_path / "data"), split="test", resolution=32)
    assert DarcyDataset(config)[1]["permeability"].sum() == 32 * 32
    assert "MIT License" in (tmp_path / "data" / "NOTICE").read_text()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["NOTICE", "burgers", "darcy"]


def test_pip_downloads_the_wheel_by_its_own_configuration(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    fetch.neuralop_data(tmp_path / "data")
    assert (tmp_path / "data" / "NOTICE").is_file()


def test_data_that_are_there_are_left_alone(wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fetch.neuralop_data(tmp_path / "data", wheel)
    wheel.unlink()
    fetch.neuralop_data(tmp_path / "data", wheel)
    assert "already" in capsys.readouterr().out


def test_a_damaged_file_is_written_again(wheel: Path, tmp_path: Path):
    fetch.neuralop_data(tmp_path / "data", wheel)
    damaged = tmp_path / "data" / "darcy" / "test_16.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-10])
    fetch.neuralop_data(tmp_path / "data", wheel)
    assert damaged.read_bytes() == whole


def test_another_wheel_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="sha256"):
        fetch.neuralop_data(tmp_path / "data", write_wheel(tmp_path))
    assert list((tmp_path / "data").iterdir()) == []


class Code:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    wheel = accepted(write_wheel(tmp_path, darcy_test_32={"x": Code(), "y": torch.ones(1)}), monkeypatch)
    with pytest.raises(DataError, match="darcy_test_32"):
        fetch.neuralop_data(tmp_path / "data", wheel)
    assert not Path("executed").exists() and list((tmp_path / "data").iterdir()) == []


def test_without_a_network_it_says_how_to_bring_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UsageError, match="could not download") as error:
        fetch.neuralop_data(tmp_path / "data")
    assert "--wheel" in str(error.value.hint)


def test_without_pip_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho /usr/bin/python: No module named pip >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(fetch.sys, "executable", str(python))
    with pytest.raises(UsageError, match="has no pip"):
        fetch.neuralop_data(tmp_path / "data")


def test_a_folder_that_cannot_be_made_is_named(wheel: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        fetch.neuralop_data(tmp_path / "file" / "data", wheel)


def test_a_wheel_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot read .*missing\.whl"):
        fetch.neuralop_data(tmp_path / "data", tmp_path / "missing.whl")
