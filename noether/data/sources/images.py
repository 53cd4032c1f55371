"""images: image files in folders, with classes by the name of the folder or targets from a table beside them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from noether.data.dataset import InMemoryDataset, StoredDataset
from noether.data.sources.columns import assembled
from noether.data.sources.delimited import TableFormat
from noether.data.sources.tables import column_names, read_columns, read_table
from noether.data.splits import ColumnSplitConfig, part_indices
from noether.errors import DataError
from noether.spec.errors.words import toml_literal

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_IN_MEMORY = 512 << 20  # bytes of decoded images that are read at once and kept; more are read batch by batch
_MODES = {"rgb": "RGB", "gray": "L"}
_DEEP = ("I;16", "I;16B", "I;16L", "I")  # Pillow's modes of 16-bit grey values


class ImagesConfig(ColumnSplitConfig):
    """Settings of `images`."""

    path_fields: ClassVar[tuple[str, ...]] = ("path", "targets")

    path: str = Field(examples=["data/leaves"], description="The folder: one folder of images for each class in it.")
    classes: list[str] | None = Field(
        None,
        examples=[["healthy", "rust"]],
        description="Names of the folders; the place of a name is the number in `label_target`. Not with `targets`.",
    )
    targets: str | None = Field(
        None,
        examples=["data/angles.csv"],
        description="Table with a row for each image: its file below the folder in the first column, and targets.",
    )
    properties: dict[str, str | list[str]] | None = Field(
        None,
        examples=[{"angle_target": "angle"}],
        description="Properties from columns of the table of targets; every other column as `<column>_target` without.",
    )
    categories: dict[str, list[str]] = Field(
        default_factory=dict,
        examples=[{"species": ["oak", "pine"]}],
        description="Texts of a column of the table; the place of a text is its number.",
    )
    channels: Literal["rgb", "gray"] = Field("rgb", description="Three channels, or one.")
    size: list[int] | None = Field(
        None,
        min_length=2,
        max_length=2,
        examples=[[64, 64]],
        description="Height and width to which images are resized; without it all images must have one size.",
    )

    @field_validator("size")
    @classmethod
    def _positive(cls, size: list[int] | None) -> list[int] | None:
        if size is not None and min(size) < 1:
            raise ValueError(f"wrong size: found {size}, expected a height and a width of at least 1 pixel")
        return size

    def compared_files(self) -> Sequence[Path]:
        """Return the images and the table of targets."""
        return [*([Path(self.targets)] if self.targets else []), *image_files(Path(self.path))]

    def categories_by_name(self) -> Mapping[str, Sequence[str]]:
        """Return the classes and the categories of the table."""
        return self.categories | ({"label": self.classes} if self.classes else {})

    def class_names(self, property_name: str) -> Sequence[str] | None:
        """Return the classes, or the categories of a column of the table."""
        if self.targets is None:
            return self.classes if property_name == "label_target" else None
        column = (self.properties or {}).get(property_name, property_name.removesuffix("_target"))
        return self.categories.get(column) if isinstance(column, str) else None


class ImagesDataset(StoredDataset):
    """Serves images as `image`, float32 of shape (channels, height, width) between 0 and 1, with their targets.

    Images that fit in 512 MiB are decoded at once, so that a damaged one is found before training; others when their
    batch is loaded. They are turned as their EXIF orientation says, transparent pixels become white, and 16-bit values
    are divided by 65535. Hidden files and files that are not images are left out.

    Args:
        dataset_config: The folder, and the part of its images.
        seed: Seed of the run; decides the split where the config names no seed.

    Raises:
        DataError: if there is no image, one cannot be read or has another size, or its target is missing.
    """

    @classmethod
    def known_properties(cls, config: ImagesConfig) -> tuple[str, ...] | None:
        """Return the properties if the config names them; else the table has to be read for them."""
        if config.targets is None:
            return ("image", "label_target")
        return None if config.properties is None else ("image", *config.properties)

    def __init__(self, dataset_config: ImagesConfig, *, seed: int = 0) -> None:
        super().__init__(dataset_config)
        self._channels, self._size = dataset_config.channels, dataset_config.size
        root = Path(dataset_config.path)
        codes = None
        if dataset_config.targets is None:
            files, targets = images_by_class(root, dataset_config)
        else:
            files, targets, codes = _by_table(root, Path(dataset_config.targets), dataset_config)
        self.holds_doubles = any(values.dtype == torch.float64 for values in targets.values())
        if not files:
            raise no_images(root)
        part = part_indices(dataset_config, len(files), seed, codes)
        places = range(len(files)) if part is None else part.tolist()
        self.files = [files[place] for place in places]
        self._targets = {name: values if part is None else values[part] for name, values in targets.items()}
        self._shape = tuple(self._decoded(self.files[0]).shape)
        self._kept: Tensor | None = None
        if 4 * len(self.files) * int(np.prod(self._shape)) <= _IN_MEMORY:
            self._kept = self._images(range(len(self.files)))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Tensor) -> dict[str, Tensor]:
        """Return images with their targets.

        Raises:
            DataError: if an image cannot be read, or has another size than the first one.
        """
        images = self._images(indices.tolist()) if self._kept is None else self._kept[indices]
        return {"image": images, **{name: values[indices] for name, values in self._targets.items()}}

    def _images(self, places: Sequence[int]) -> Tensor:
        images = torch.empty((len(places), *self._shape))
        for row, place in enumerate(places):
            image = self._decoded(self.files[place])
            if tuple(image.shape) != self._shape:
                (_, height, width), (_, found_height, found_width) = self._shape, image.shape
                raise DataError(
                    f"{self.files[place]}: wrong size: found {found_height} x {found_width} pixels, expected {height} "
                    f"x {width} as of {self.files[0]}",
                    hint=f"resize them: size = [{height}, {width}]",
                )
            images[row] = image
        return images

    def _decoded(self, path: Path) -> Tensor:
        return read_image(path, self._channels, self._size)


def raw_images(root: Path, config: ImagesConfig, shape: Sequence[int]) -> tuple[InMemoryDataset, list[str]]:
    """Return images of a folder like those of a data set, without targets, and their names.

    Args:
        root: The folder.
        config: The data set.
        shape: Shape of its images.

    Raises:
        DataError: if there are none, or one cannot be read or has another size.
    """
    files = image_files(root)
    if not files:
        raise no_images(root)
    images = [read_image(file, config.channels, config.size) for file in files]
    for file, image in zip(files, images, strict=True):
        if tuple(image.shape) != tuple(shape):
            raise DataError(
                f"{file}: wrong size: found {image.shape[1]} x {image.shape[2]} pixels, expected {shape[1]} x "
                f"{shape[2]} as in training",
                hint="resize it, or train with `size`, to which all images are resized",
            )
    return InMemoryDataset({"image": torch.stack(images)}), _names_below(root, files)


def labelled_images(root: Path, config: ImagesConfig) -> tuple[InMemoryDataset, list[str]]:
    """Return images with their targets from a folder like that of a data set, and their names.

    Raises:
        DataError: if there are none, or one cannot be read or has no target.
    """
    table = {} if config.targets is None else {"targets": str(root / Path(config.targets).name)}
    found = ImagesDataset(config.model_copy(update={"path": str(root), "split": None, **table}))
    return found.held_in_memory(found.read(torch.arange(len(found)))), _names_below(root, found.files)


def _names_below(root: Path, files: Iterable[Path]) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def image_files(root: Path) -> list[Path]:
    """Return the images below a folder in the order of their paths, without hidden ones.

    Raises:
        DataError: if there is no such folder.
    """
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {found}, expected a folder of images")
    found_files = []
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(os.path.realpath(folder))
        shown = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        # a link to a folder that it lies in has no end
        folders[:] = [name for name in shown if not here.is_relative_to(os.path.realpath(Path(folder, name)))]
        found_files += [
            Path(folder, name) for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found_files)


def folders_of_classes(root: Path, files: Sequence[Path]) -> list[str]:
    """Return the names of the folders directly below `root` that hold images."""
    return sorted({file.relative_to(root).parts[0] for file in files if file.parent != root})


def no_images(root: Path) -> DataError:
    """Return the error for a folder without images."""
    return DataError(f"{root} has no images: found no file that ends in {', '.join(SUFFIXES)}")


def images_by_class(root: Path, config: ImagesConfig) -> tuple[list[Path], dict[str, Tensor]]:
    """Return images with the number of their folder among the classes.

    Raises:
        DataError: if one lies in no folder of a class, or there are no classes.
    """
    files, classes = image_files(root), config.classes
    names = folders_of_classes(root, files)
    if config.split_by or config.split_time:
        raise DataError(f"{root}: split_by and split_time name a column of `targets`: found no `targets`")
    if classes is None:
        raise DataError(
            f"{root}: no classes: found no `classes` and no `targets`, expected one of them",
            hint=f"name the folders in the order of their numbers: classes = {toml_literal(names[:50])}",
        )
    for file in files:
        folder = file.relative_to(root).parts[0]
        if folder not in classes or file.parent == root:
            where = "lies in no folder of a class" if file.parent == root else f"lies in the folder {folder!r}"
            raise DataError(f"{file} {where}, expected one of {', '.join(classes)}")
    numbers = [classes.index(file.relative_to(root).parts[0]) for file in files]
    return files, {"label_target": torch.tensor(numbers, dtype=torch.int64)}


def _by_table(root: Path, table: Path, config: ImagesConfig) -> tuple[list[Path], dict[str, Tensor], Tensor | None]:
    """Return the images that a table lists, in the order of their paths, with their properties and groups."""
    form = TableFormat(categories=config.categories)
    paths, names = listed_images(root, table)
    wanted = config.properties or {f"{name}_target": name for name in names[1:] if name != config.split_column}
    used = [name for given in wanted.values() for name in ([given] if isinstance(given, str) else given)]
    is_time = config.split_time is not None
    columns, codes = read_columns(table, list(dict.fromkeys(used)), form, config.split_column, ordered=is_time)
    order = sorted(range(len(paths)), key=lambda row: root / paths[row])
    properties = {name: values[order] for name, values in assembled(table, wanted, columns).items()}
    return [root / paths[row] for row in order], properties, None if codes is None else codes[order]


def listed_images(root: Path, table: Path) -> tuple[list[str], list[str]]:
    """Return the paths in the first column of a table, and the names of all of its columns.

    Raises:
        DataError: if one is no file, or is there twice.
    """
    names = column_names(table, TableFormat())
    listed = read_table(table, lambda present: present[:1], TableFormat(), as_text=names[:1])
    paths = listed.columns.column(0).to_pylist()
    seen: dict[str, int] = {}
    for row, path in enumerate(paths):
        if path is None or not os.path.isfile(root / path):  # noqa: PTH113  # that of pathlib raises for a long name
            raise DataError(
                f"{table}: no image {path!r} below {root}, which is in {listed.place(row)}",
                hint=f"the first column, here {names[0]!r}, has the file of each image below this folder",
            )
        plain = os.path.normpath(path)
        if plain in seen:
            raise DataError(f"{table}: found {path!r} twice, in rows {seen[plain] + 1} and {row + 1}, expected once")
        seen[plain] = row
    return paths, names


def read_image(path: Path, channels: str, size: Sequence[int] | None = None) -> Tensor:
    """Return an image as float32 of shape (channels, height, width), between 0 and 1.

    Args:
        path: The file.
        channels: `rgb` or `gray`.
        size: Height and width to resize it to; None for its own.

    Raises:
        DataError: if Pillow is not installed, or the file is not an image, is cut, or has values of an unknown range.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DataError("reading images needs Pillow", hint="pip install 'noether-train[images]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image: Any = ImageOps.exif_transpose(file)
                image.load()
    except Exception as error:  # each format has errors of its own
        raise DataError(
            f"{path} cannot be read as an image: {error}", hint="check that the file is complete, or remove it"
        ) from error
    if image.mode == "F":
        raise DataError(f"{path}: wrong values: found floating-point pixels, expected 8 or 16 bits a channel")
    if image.mode in _DEEP:
        return _deep(path, image, channels, size)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert(_MODES[channels])
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    pixels = np.array(image, dtype=np.float32) / 255
    return torch.from_numpy(pixels[None] if channels == "gray" else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _deep(path: Path, image: Any, channels: str, size: Sequence[int] | None) -> Tensor:
    """Return an image of 16-bit grey values."""
    values = np.array(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{path}: wrong values: found {values.min()} to {values.max()}, expected 0 to 65535")
    pixels = torch.from_numpy(values).to(torch.float32)[None] / 65535
    if size is not None:
        pixels = torch.nn.functional.interpolate(
            pixels[None], tuple(size), mode="bilinear", antialias=True, align_corners=False
        )[0]
    return pixels if channels == "gray" else pixels.expand(3, -1, -1)
