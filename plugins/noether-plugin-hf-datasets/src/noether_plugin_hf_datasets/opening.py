"""Opening of data sets: folders that `datasets` has saved, files, and names of the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from noether.errors import DataError
from noether_plugin_hf_datasets.tables import ArrowTable, RowGroups, Table

SUFFIXES = (".parquet", ".arrow", ".csv", ".json", ".jsonl")


def open_path(path: Path, split: str | None, *, streaming: bool, most_bytes: int) -> Table:
    """Return the table of a folder or a file; uses no network.

    Args:
        path: A folder of `save_to_disk`, a file, or a folder of files of one format.
        split: Name of the split, if the folder has several.
        streaming: True to read Parquet in place; otherwise `datasets` converts it to Arrow once.
        most_bytes: Bytes of decoded row groups that are kept.

    Raises:
        DataError: if there is no such data set.
    """
    if path.is_dir() and _is_saved(path):
        return ArrowTable(path, _one_split(str(path), _loaded(path), split))
    files = _files(path)
    if split is not None:
        raise DataError(
            f"{path} has no splits: found split = {split!r}, expected none for files",
            hint=f"give the folder of the split, such as {path / split}, and leave out `split`",
        )
    suffix = files[0].suffix.lower()
    if streaming and suffix == ".parquet":
        return RowGroups(path, files, most_bytes)
    if streaming and suffix != ".arrow":
        raise DataError(
            f"{path} cannot be streamed: found {suffix}, in which no sample has a place that can be computed, expected "
            ".parquet or .arrow",
            hint="leave out `streaming`: the file is converted to Arrow once, and read from there",
        )
    try:
        return ArrowTable(path, _converted(files, suffix))
    except DataError:
        raise
    except Exception as error:  # each format has errors of its own
        cause = error.__cause__ or error
        raise DataError(
            f"{path} cannot be read as {suffix}: {cause}", hint="check that the files are complete"
        ) from error


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _loaded(path: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(path))
    except IndexError as error:  # of `datasets`, which writes no file for a data set without rows
        raise DataError(f"{path}: no samples: found 0 rows, expected at least 1") from error
    except Exception as error:  # json, Arrow and the system have errors of their own
        raise DataError(f"{path} cannot be read: {error}", hint="save it again with save_to_disk") from error


def _files(path: Path) -> list[Path]:
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    else:
        raise DataError(
            f"{path} does not exist, or is neither a file nor a folder",
            hint="a path in a spec starts at the spec's own folder, one of the command line at the working folder",
        )
    suffixes = sorted({file.suffix.lower() for file in files})
    if len(suffixes) != 1 or suffixes[0] not in SUFFIXES:
        folders = [other.name for other in path.iterdir() if other.is_dir()] if path.is_dir() and not files else []
        beside = f"; its folders are {', '.join(sorted(folders)[:10])}" if folders else ""
        raise DataError(
            f"{path}: unknown format: found {', '.join(suffixes) or 'no file'}{beside}, expected a folder of "
            f"save_to_disk, or files of one of {', '.join(SUFFIXES)}",
            hint="dataset.save_to_disk(folder) writes every data set as a folder that can be read",
        )
    return files


def _converted(files: list[Path], suffix: str) -> Any:
    """Return files as a data set: Arrow is mapped, the others are converted once into the cache of `datasets`."""
    import datasets

    names: Any = [str(file) for file in files]
    if suffix == ".arrow":
        return datasets.concatenate_datasets([datasets.Dataset.from_file(name) for name in names])
    readers: dict[str, Callable[..., Any]] = {
        ".parquet": datasets.Dataset.from_parquet,
        ".csv": datasets.Dataset.from_csv,
        ".json": datasets.Dataset.from_json,
        ".jsonl": datasets.Dataset.from_json,
    }  # load_dataset("parquet") would be the same, but counts its use on the hub
    return readers[suffix](names)


def open_hub(name: str, subset: str | None, revision: str, split: str | None) -> Table:
    """Return a data set of the hub, which is downloaded unless the cache of `datasets` has it.

    Raises:
        DataError: if it cannot be loaded.
    """
    import datasets

    try:
        found = datasets.load_dataset(name, subset, revision=revision, split=split)
    except Exception as error:  # of the network, the hub and each format
        raise DataError(
            f"the data set {name!r} cannot be loaded from the hub: {type(error).__name__}: {error}",
            hint="check its name, subset, revision and split; without a network, download it elsewhere, save it with "
            "save_to_disk, and give that folder as `path`",
        ) from error
    return ArrowTable(Path(name), _one_split(name, found, split))


def _one_split(source: str, found: Any, split: str | None) -> Any:
    """Return one split of a data set.

    Raises:
        DataError: if there is no such split, or several and none is named.
    """
    import datasets

    if isinstance(found, datasets.Dataset):
        if split is not None and str(found.split or split) != split:
            raise DataError(f"{source}: wrong split: found {found.split}, expected {split!r}", hint="leave out `split`")
        return found
    names = sorted(found)
    chosen = names[0] if split is None and len(names) == 1 else split
    if chosen not in found:
        raise DataError(
            f"{source}: {'no split is named' if split is None else f'unknown split {split!r}'}: expected one of "
            f"{', '.join(names)}",
            hint=f'write split = "{names[0]}"' if names else "save a data set with at least one split",
        )
    return found[chosen]
