"""`noether neuralop-data`: Darcy flow and Burgers' equation, from a wheel of neuraloperator to safetensors."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noether.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

WHEEL = "neuraloperator==0.3.0"
"""The release whose wheel holds data; those from 1.0 on download them from elsewhere."""
SHA256 = "483b358f2d9823c2ccb5dd0c1af8d21f879fd103806ad42959ebb975260e6ec4"
NOTICE = """\
Darcy flow and Burgers' equation on coarse grids, as they come with neuraloperator 0.3.0
(https://github.com/neuraloperator/neuraloperator), in safetensors. Nothing but the format was changed.

  Z. Li et al.: Fourier Neural Operator for Parametric Partial Differential Equations. ICLR 2021, arXiv:2010.08895
  J. Kossaifi et al.: A Library for Learning Neural Operators. 2024, arXiv:2412.10354

Its licence:

"""
_FOLDER = "neuralop/datasets/data"
_LICENCE = "neuraloperator-0.3.0.dist-info/LICENSE"
_SOURCES = {
    "darcy/train_16.safetensors": ("darcy_train_16.pt", {"x": "x", "y": "y"}),
    "darcy/test_16.safetensors": ("darcy_test_16.pt", {"x": "x", "y": "y"}),
    "darcy/test_32.safetensors": ("darcy_test_32.pt", {"x": "x", "y": "y"}),
    "burgers/trajectories.safetensors": ("burgers_lowres.pt", {"u": "output", "viscosity": "visc"}),
}
"""Each written file: its file in the wheel, and the name there of each of its tensors."""


def neuralop_data(
    folder: Annotated[Path, typer.Argument(help="Folder for the data, such as data; it is made if it is missing.")],
    wheel: Annotated[
        Path | None, typer.Option(help=f"The wheel of {WHEEL}, if it is there already; else pip downloads it.")
    ] = None,
) -> None:
    """Write Darcy flow and Burgers' equation into FOLDER, for the data sets `darcy` and `burgers`.

    pip downloads the wheel of neuraloperator 0.3.0 (3 MB), by its own configuration; its hash is compared, and nothing
    in it is executed. A folder that has the data is left alone.

    Example: noether neuralop-data data
    """
    if all(_is_sound(folder / name) for name in _SOURCES) and (folder / "NOTICE").is_file():
        print(f"{folder} has the data already")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".neuralop-data-", dir=folder) as work:
            content = _verified(wheel or downloaded(Path(work)))
            _write(content, folder, Path(work))
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error}", hint="choose another FOLDER") from error
    for name in _SOURCES:
        print(f"wrote {folder / name}")
    print(f"wrote {folder / 'NOTICE'}: source and licence (MIT)")


def downloaded(folder: Path) -> Path:
    """Download the wheel with pip, and return it.

    Args:
        folder: An empty folder for it.

    Raises:
        UsageError: if there is no pip, or it fails.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", WHEEL]
    ended = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if ended.returncode == 0 and found:
        return found[0]
    if "No module named pip" in ended.stderr:
        raise UsageError(
            f"{sys.executable} has no pip to download {WHEEL} with",
            hint=f"python -m ensurepip; or download {WHEEL} elsewhere, and name it with --wheel FILE",
        )
    lines = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")] or [ended.stderr.strip()]
    raise UsageError(
        f"pip could not download {WHEEL}: {lines[-1].removeprefix('ERROR: ')}",
        hint=f"where the network is: pip download --no-deps {WHEEL}; then name the file with --wheel FILE",
    )


def _verified(wheel: Path) -> bytes:
    try:
        content = wheel.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the wheel {wheel}: {error.strerror}") from error
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise DataError(
            f"{wheel} is not the wheel of {WHEEL}: its sha256 is {found}, expected {SHA256}",
            hint=f"pip download --no-deps {WHEEL}",
        )
    return content


def _write(content: bytes, folder: Path, work: Path) -> None:
    """Write all files beside their places, then put them there one by one; the notice is last."""
    from safetensors.torch import save

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name, (source, tensors) in _SOURCES.items():
            stored = stored_tensors(archive.read(f"{_FOLDER}/{source}"), source)
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_bytes(save({ours: stored[theirs].contiguous() for ours, theirs in tensors.items()}))
        (work / "NOTICE").write_bytes(NOTICE.encode() + archive.read(_LICENCE))
    for name in (*_SOURCES, "NOTICE"):
        (folder / name).parent.mkdir(exist_ok=True)
        os.replace(work / name, folder / name)  # noqa: PTH105  # that of pathlib says nothing else


def stored_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """Return the tensors of a file of `torch.save`, without running code that it names.

    Raises:
        DataError: if it holds anything but tensors by name.
    """
    import torch

    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(f"{name} cannot be read without running code that it holds: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise DataError(f"{name} holds a {type(found).__name__}, expected tensors by name")
    return found


def _is_sound(path: Path) -> bool:
    """Return True for a file that opens, with the size that it says it has."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except (OSError, SafetensorError):
        return False
