"""Images in folders: classes, targets, sizes, and files that are damaged or no images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noether.data.sources.images import ImagesConfig, ImagesDataset, read_image
from noether.errors import DataError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'noether-train[images]'")
CLASSES = ["cat", "dog"]


def save(path: Path, value: int = 100, size: tuple[int, int] = (4, 6), mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0]), value if mode == "L" else (value,) * len(mode)).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        save(tmp_path / f"pets/cat/{number}.png", 10 * number)
        save(tmp_path / f"pets/dog/more/{number}.PNG", 100 + 10 * number)
    for junk in ("cat/Thumbs.db", "cat/.hidden.png", ".cache/x.png", "notes.txt"):
        (tmp_path / "pets" / junk).parent.mkdir(exist_ok=True)
        (tmp_path / "pets" / junk).write_bytes(b"no image")
    return tmp_path / "pets"


def images(folder: Path, **options: Any) -> ImagesDataset:
    return ImagesDataset(ImagesConfig.model_validate({"kind": "images", "path": str(folder), **options}))


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        images(folder, **options)
    return f"{caught.value.message} {caught.value.hint}"


def test_the_folder_of_an_image_is_its_class(folder: Path) -> None:
    batch = images(folder, classes=CLASSES).__getitems__(list(range(10)))
    assert batch["image"].shape == (10, 3, 4, 6)
    assert batch["label_target"].tolist() == [0] * 5 + [1] * 5
    assert batch["image"][9, 0, 0, 0] == pytest.approx(140 / 255)


def test_images_that_do_not_fit_in_memory_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = images(folder, classes=CLASSES)
    monkeypatch.setattr("noether.data.sources.images._IN_MEMORY", 0)
    read = images(folder, classes=CLASSES)
    assert read._kept is None
    assert torch.equal(kept.__getitems__([7, 2])["image"], read.__getitems__([7, 2])["image"])


def test_parts_cover_the_folder(folder: Path) -> None:
    parts = [images(folder, classes=CLASSES, split=part) for part in ("train", "test")]
    assert sorted(file for part in parts for file in part.files) == images(folder, classes=CLASSES).files
    assert [len(part) for part in parts] == [8, 2]


def test_the_classes_have_to_be_named_and_the_error_shows_them(folder: Path) -> None:
    assert 'classes = ["cat", "dog"]' in refusal(folder)


def test_a_folder_that_is_no_class_is_named(folder: Path) -> None:
    assert "'dog', expected one of cat" in refusal(folder, classes=["cat"])
    save(folder / "loose.png")
    assert "loose.png lies in no folder of a class" in refusal(folder, classes=CLASSES)


def test_targets_come_from_a_table(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text("file,angle,pet,animal\ndog/more/1.PNG,30.5,d,1\ncat/0.png,10,c,1\ncat/3.png,20,c,2\n")
    options = {"targets": str(table), "categories": {"pet": ["c", "d"]}}
    batch = images(folder, **options).__getitems__([0, 1, 2])
    assert batch["angle_target"].tolist() == [10, 20, 30.5]
    assert batch["pet_target"].tolist() == [0, 0, 1]
    parts = [images(folder, split=part, split_by="animal", **options) for part in ("train", "test")]
    assert sorted(map(len, parts)) == [1, 2]


def test_an_image_that_a_table_lists_and_a_folder_lacks_is_named_with_its_row(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,angle\ncat/0.png,10\ncat/9.png,20\n")
    assert "'cat/9.png'" in (message := refusal(folder, targets=str(folder / "labels.csv")))
    assert "row 2 below the header" in message
    (folder / "labels.csv").write_text("file,angle\ncat/0.png,10\ncat/0.png,20\n")
    assert "twice, in rows 1 and 2" in refusal(folder, targets=str(folder / "labels.csv"))
    (folder / "labels.csv").write_text("file,angle\ncat/0.png,10\n./cat/0.png,20\n")
    assert "twice, in rows 1 and 2" in refusal(folder, targets=str(folder / "labels.csv"))


def test_a_linked_folder_is_a_class_and_a_circle_of_links_ends(folder: Path) -> None:
    (folder / "fox").symlink_to(folder / "dog")
    (folder / "dog/more/up").symlink_to(folder)
    labels = images(folder, classes=[*CLASSES, "fox"]).__getitems__(list(range(15)))["label_target"]
    assert labels.bincount().tolist() == [5, 5, 5]


def test_a_cut_image_is_named_before_training(folder: Path) -> None:
    rng = np.random.default_rng(0)
    whole = folder / "cat/9.png"
    Image.fromarray(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)).save(whole)
    whole.write_bytes(whole.read_bytes()[:60])
    assert "cat/9.png cannot be read as an image" in refusal(folder, classes=CLASSES)


def test_images_of_different_sizes_are_named_unless_they_are_resized(folder: Path) -> None:
    save(folder / "dog/large.png", size=(9, 9))
    assert "large.png: wrong size: found 9 x 9 pixels, expected 4 x 6" in refusal(folder, classes=CLASSES)
    assert images(folder, classes=CLASSES, size=[8, 5])[10]["image"].shape == (3, 8, 5)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    assert "no images" in refusal(tmp_path, classes=CLASSES)
    assert "does not exist" in refusal(tmp_path / "nowhere", classes=CLASSES)


def test_gray_has_one_channel_and_16_bits_keep_their_range(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 51, mode="L")
    assert read_image(path, "gray")[0, 0, 0] == pytest.approx(0.2)
    assert read_image(path, "rgb").shape == (3, 4, 6)
    Image.fromarray(np.full((4, 6), 13107, dtype=np.uint16)).save(tmp_path / "deep.png")
    for channels, count in (("gray", 1), ("rgb", 3)):
        deep = read_image(tmp_path / "deep.png", channels, (2, 3))
        assert deep.shape == (count, 2, 3)
        assert deep[0, 0, 0] == pytest.approx(0.2)


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 3), (200, 0, 0, 0)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", "rgb").min() == 1


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the first row is the right side
    save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", "rgb").shape == (3, 6, 4)
