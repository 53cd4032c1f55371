"""`noether spec init` on files as people have them: the spec trains at once, and its run predicts."""

import csv
import math
import random
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

QUICK = ["-q", "-s", 'trackers=["noop"]', "-s", "trainer.max_epochs=2", "-s", "threads=1"]
STIFFNESS = {"steel": 210.0, "aluminium": 70.0, "titanium": 110.0}
HEADER = ["specimen", "material", "load [N]", "length", "site", "deflection [mm]"]


def beams(count: int = 60) -> list[list[Any]]:
    draw = random.Random(0)
    rows = []
    for number in range(count):
        material, load, length = draw.choice(list(STIFFNESS)), draw.uniform(100, 900), draw.uniform(1, 4)
        bent = load * length**3 / STIFFNESS[material]
        rows.append([f"B{number:03}", material, round(load, 1), round(length, 3), "lab A", round(bent, 4)])
    return rows


def write(name: str, rows: list[list[Any]], header: list[str] | None = None, delimiter: str = ",") -> str:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header or HEADER, *rows])
    return name


@pytest.fixture
def init(noether_command, workplace):
    """Makes a spec; returns its tables and what the command printed."""

    def made(*options: str, name: str = "mine.toml") -> tuple[dict[str, Any], str]:
        ended = noether_command("spec", "init", name, *options)
        assert ended.code == 0, ended.err
        return tomllib.loads(Path(name).read_text()), ended.out

    return made


@pytest.fixture
def refusal(noether_command, workplace):
    def refused(*options: str) -> str:
        ended = noether_command("spec", "init", "mine.toml", *options)
        assert (ended.code, ended.out) == (2, "")
        assert not Path("mine.toml").exists()
        return ended.err

    return refused


def rows_of(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_csv_trains_and_predicts_in_its_units(init, noether_command):
    spec, told = init("--data", write("beam.csv", beams()), "--targets", "deflection [mm]")
    assert spec["datasets"]["train"]["properties"] == {
        "numbers": ["load [N]", "length"],
        "categories": ["material"],
        "deflection_mm_target": "deflection [mm]",
    }
    assert spec["datasets"]["test"]["categories"] == {"material": ["aluminium", "steel", "titanium"]}
    assert "not used: 60 different texts, like an id" in told
    assert "not used: constant" in told
    assert noether_command("run", "mine.toml", *QUICK, "--run-id", "mine").code == 0
    write("new.csv", [row[:-1] for row in beams(4)], HEADER[:-1])
    best = ["--checkpoint", "best_model.loss.validation.total"]
    ended = noether_command("predict", "mine", *best, "--data", "new.csv", "--out", "p.csv")
    assert (ended.code, ended.err) == (0, "")
    predicted = [float(row["deflection [mm]"]) for row in rows_of("p.csv")]
    assert len(predicted) == 4
    assert all(math.isfinite(value) for value in predicted)
    assert np.mean(predicted) == pytest.approx(np.mean([row[-1] for row in beams()]), rel=0.9), "not millimetres"

    write("new.csv", [["B1", "wood", 100, 2, "lab A"]], HEADER[:-1])
    ended = noether_command("predict", "mine", "--data", "new.csv", "--out", "q.csv")
    assert ended.code == 2
    assert '"wood" in row 1 below the header' in ended.err


@pytest.mark.parametrize(("least", "said", "methods"), [(1e-4, "as logarithm", [None, "log"]), (0.0, "target", [None])])
def test_a_target_above_0_over_powers_of_ten_is_learned_as_its_logarithm(init, least, said, methods):
    rows = [[number % 7, least + (number / 60) ** 8] for number in range(60)]
    spec, told = init("--data", write("wide.csv", rows, ["a", "b"]), "--targets", "b")
    assert [table.get("method") for table in spec["transforms"]] == methods
    assert told.splitlines()[2].endswith(said)


def test_a_target_of_texts_is_a_classification_whose_predictions_have_names(init, noether_command):
    draw = random.Random(0)
    rows = [[draw.gauss(3 * kind, 1), draw.gauss(kind, 1), "abc"[kind]] for kind in range(3) for _ in range(20)]
    header = ["width", "height", "species name"]
    spec, _ = init("--data", write("iris.csv", rows, header), "--targets", "species name")
    assert spec["model"]["out_features"] == {"species_name": 3}
    assert spec["trainer"]["loss_fn"] == "cross-entropy"
    assert noether_command("run", "mine.toml", *QUICK, "--run-id", "mine").code == 0
    write("new.csv", [row[:-1] for row in rows[:5]], header[:-1])
    assert noether_command("predict", "mine", "--data", "new.csv", "--out", "p.tsv").code == 0
    found = [line.split("\t") for line in Path("p.tsv").read_text().replace('"', "").splitlines()]
    assert found[0] == ["species name", "species name[a]", "species name[b]", "species name[c]"]
    for name, *shares in found[1:]:
        assert sum(map(float, shares)) == pytest.approx(1)
        assert float(shares["abc".index(name)]) == max(map(float, shares))
    assert noether_command("predict", "mine", "--data", "new.csv", "--out", "p.npz").code == 0


def test_a_european_csv_has_semicolons_and_decimal_commas(init, noether_command):
    rows = [[str(value).replace(".", ",") for value in row] for row in beams()]
    spec, _ = init("--data", write("beam.csv", rows, delimiter=";"), "--targets", "deflection [mm]")
    assert (spec["datasets"]["train"]["delimiter"], spec["datasets"]["train"]["decimal"]) == (";", ",")
    assert noether_command("run", "mine.toml", *QUICK).code == 0


def test_rows_that_lack_a_value_are_left_out_and_counted_in_the_spec(init, noether_command):
    rows = beams()
    rows[3][2] = ""
    rows[7][1] = "NA"
    for row in rows[::2]:
        row[3] = "n/a" if row is rows[0] else ""
    spec, told = init("--data", write("beam.csv", rows), "--targets", "deflection [mm]")
    assert spec["datasets"]["validation"]["missing"] == "drop"
    assert "rows without a value are left out: material (1), load [N] (1)" in Path("mine.toml").read_text()
    assert "not used" in next(line for line in told.splitlines() if line.startswith("length"))
    assert noether_command("run", "mine.toml", *QUICK, "--run-id", "mine").code == 0
    ended = noether_command("predict", "mine", "--data", "beam.csv", "--out", "p.csv")
    assert ended.code == 2, "a prediction would have been left out"
    assert "missing values in 'load [N]'" in ended.err
    assert "row 4 below the header" in ended.err


def test_whole_numbers_are_a_quantity_unless_they_are_said_to_be_classes(init):
    rows = [[number / 7, number % 5 + 1] for number in range(40)]
    write("grades.csv", rows, ["x", "grade"])
    spec, _ = init("--data", "grades.csv", "--targets", "grade")
    assert spec["trainer"]["loss_fn"] == "mse"
    assert "--categories grade" in Path("mine.toml").read_text()
    spec, _ = init("--data", "grades.csv", "--targets", "grade", "--categories", "grade", name="classes.toml")
    assert spec["datasets"]["train"]["categories"] == {"grade": ["1", "2", "3", "4", "5"]}
    assert spec["trainer"]["loss_fn"] == "cross-entropy"


def test_columns_of_no_use_are_left_out_with_a_reason(init):
    rows = [
        [n, f"2024-01-{n % 28 + 1:02}", n % 2 == 0, f"{n / 3:.1f} kN", "1" if n else "one", n / 7] for n in range(40)
    ]
    write("log.csv", rows, ["", "day", "is_wet", "load", "mixed", "y"])
    spec, told = init("--data", "log.csv", "--targets", "y")
    assert spec["datasets"]["train"]["categories"] == {"is_wet": ["False", "True"]}
    assert spec["trainer"]["forward_properties"] == ["categories"]
    for reason in ("no printable name", "usable as split_time", "numbers with units", '"one" in row 1'):
        assert reason in told


def test_several_files_are_one_data_set(init, noether_command):
    for number in range(3):
        write(f"part{number}.csv", beams()[number * 20 : number * 20 + 20])
    spec, _ = init("--data", "part*.csv", "--targets", "deflection [mm]")
    assert spec["datasets"]["train"]["path"] == "part*.csv"
    assert noether_command("run", "mine.toml", *QUICK).code == 0


@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_arrays_on_disk_stay_there(init, noether_command, suffix):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(40, 3)), "y_target": rng.normal(size=40)}
    if suffix == "h5":
        h5py = pytest.importorskip("h5py", reason="pip install h5py")
        with h5py.File("data.h5", "w") as file:
            for name, values in arrays.items():
                file[name] = values
    else:
        zarr = pytest.importorskip("zarr", reason="pip install zarr")
        group = zarr.open_group("data.zarr", mode="w")
        for name, values in arrays.items():
            group.create_array(name, data=values)
    spec, _ = init("--data", f"data.{suffix}")
    assert spec["datasets"]["train"]["kind"] == "disk"
    assert noether_command("run", "mine.toml", *QUICK, "--run-id", "mine").code == 0
    assert noether_command("predict", "mine", "--data", f"data.{suffix}", "--out", "p.csv").code == 0
    assert len(rows_of("p.csv")) == 40


def test_an_archive_may_hold_more_than_samples(init):
    x = np.random.default_rng(0).normal(size=(40, 3))
    np.savez("data.npz", x=x, y=x[:, :1], scale=np.float64(3), edges=x[:7])
    spec, _ = init("--data", "data.npz", "--targets", "y")
    assert spec["trainer"]["forward_properties"] == ["x"]
    np.savez("texts.npz", x=x, y=x[:, :1], names=np.array(["a"] * 40))
    init("--data", "texts.npz", "--targets", "y", "--inputs", "x", name="texts.toml")


@pytest.fixture
def pets(workplace):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'noether-train[images]'")
    rng = np.random.default_rng(0)
    for kind, name in enumerate(["cat", "dog"]):
        Path("pets", name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 60, (8, 8, 3), dtype=np.uint8) + np.uint8(150 * kind)
            image.fromarray(pixels).save(f"pets/{name}/{number:02}.png")
    return Path("pets")


def test_a_folder_of_images_is_classified(init, noether_command, pets):
    spec, told = init("--data", "pets")
    assert spec["model"]["kind"] == "cnn"
    assert spec["datasets"]["test"]["classes"] == ["cat", "dog"]
    assert "cat         0      12" in told
    assert noether_command("run", "mine.toml", *QUICK, "--run-id", "mine").code == 0
    assert noether_command("predict", "mine", "--data", "pets/dog", "--out", "p.csv").code == 0
    found = rows_of("p.csv")
    assert found[0].keys() == {"file", "label", "label[cat]", "label[dog]"}
    assert found[0]["file"] == "00.png"
    assert noether_command("eval", "mine", "--data", "pets").code == 0


def test_targets_of_images_come_from_the_table_beside_them(init, noether_command, pets):
    rows = [[f"{name}/{number:02}.png", number * 1.5] for name in ("cat", "dog") for number in range(12)]
    write("pets/labels.csv", rows, ["file", "age"])
    spec, _ = init("--data", "pets", "--targets", "age")
    assert spec["datasets"]["train"]["targets"] == "pets/labels.csv"
    assert spec["trainer"]["loss_fn"] == "mse"
    assert noether_command("run", "mine.toml", *QUICK).code == 0


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("", ["--targets", "y"], "is empty"),
        ("x,y\n1,2\n", ["--targets", "y"], "found 1 in data.csv, expected at least 5"),
        ("x,y\n" + "1,2\n" * 9, ["--targets", "z"], "has no 'z'"),
        ("x,y\n" + "1,2\n" * 9, [], "ends in _target"),
        ("x,y\n" + "mm,2\n" + "1,2\n" * 9, ["--targets", "y"], "x (numbers and text in one column)"),
        ("x,y\n" + "1,2 kN\n" * 9, ["--targets", "y"], "'y' of data.csv cannot be used: numbers with units"),
        ("x,x,y\n" + "1,1,2\n" * 9, ["--targets", "y"], "its name is in the header twice"),
        ("x,y\n" + "1,ok\n2,ok\n" * 9, ["--targets", "y"], "nothing to predict in 'y': found one value"),
        ("x,y\n" + f"{2**60},2\n3,4\n" * 9, ["--targets", "y"], "x (integers beyond 2**53"),
        ("x,y\n" + "1e200,2\n3,4\n" * 9, ["--targets", "y"], "numbers beyond 1e150"),
    ],
)
def test_a_table_without_a_spec_is_refused_with_the_reason(refusal, text, options, told):
    Path("data.csv").write_text(text)
    assert told in refusal("--data", "data.csv", *options)


def test_a_table_that_does_not_exist_is_refused(refusal):
    assert "nowhere.csv does not exist" in refusal("--data", "nowhere.csv", "--targets", "y")


def test_spaces_around_the_names_of_columns_need_not_be_typed(init):
    Path("data.csv").write_text("a, b\n" + "".join(f"{n / 3}, {n / 7}\n" for n in range(30)))
    spec, _ = init("--data", "data.csv", "--targets", "b")
    assert spec["datasets"]["train"]["properties"] == {"numbers": ["a"], "b_target": " b"}


def test_a_cut_image_is_named_and_no_spec_is_written(refusal, pets):
    path = pets / "cat/03.png"
    path.write_bytes(path.read_bytes()[:70])
    assert "pets/cat/03.png cannot be read as an image" in refusal("--data", "pets")


def test_images_that_could_not_be_trained_on_are_refused_before_a_spec_is_written(refusal, pets):
    (pets / "cat/03.png").rename(pets / "loose.png")
    assert "loose.png lies in no folder of a class" in refusal("--data", "pets")
    (pets / "labels.csv").write_text("file,angle\ngone.png,1\n")
    assert "no image 'gone.png'" in refusal("--data", "pets")
    (pets / "labels.csv").write_text("file,angle\nloose.png,1.5\ncat/04.png,\n")
    assert "angle (1 missing)" in refusal("--data", "pets")
    assert "missing values in 'angle'" in refusal("--data", "pets", "--targets", "angle")
    assert "are the input" in refusal("--data", "pets", "--inputs", "angle")


def test_images_without_classes_are_refused(refusal, pets):
    assert "found 0 folders of images" in refusal("--data", "pets/cat")
