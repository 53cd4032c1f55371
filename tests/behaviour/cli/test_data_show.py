"""`noether data show`: what is printed and written about data sets of every kind."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tomli_w

OWN = '''
import torch
class Odd(torch.utils.data.Dataset):
    """Samples of different sizes, with a text and a number of Python."""
    def __len__(self):
        return 5
    def __getitem__(self, index):
        return {"points": torch.randn(index + 1, 2), "name": "<script>" if index else "a", "n": index,
                "half": torch.ones(2, dtype=torch.bfloat16, requires_grad=True), "wave": torch.ones(2) * 1j,
                "sparse": torch.eye(2).to_sparse(), "parts": {"x": 1}}
class Broken(Odd):
    def __getitem__(self, index):
        raise OSError("the disk is gone")
class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())
'''


@pytest.fixture
def spec(tiny_spec, lab):
    """Writes the tiny spec with other data sets."""
    Path("lab/odd.py").write_text(OWN)

    def write(**datasets):
        Path("shown.toml").write_text(tomli_w.dumps({"spec": 1, **tiny_spec, "datasets": datasets}))
        return "shown.toml"

    return write


@pytest.fixture
def odd_numbers():
    x = np.stack([np.arange(100.0), np.full(100, 3.0)], axis=1)
    x[4, 0], x[5, 0] = np.nan, np.inf
    np.savez("odd.npz", x=x, label=np.arange(100) % 3, image=np.random.default_rng(0).random((100, 3, 9, 9)))
    return {"kind": "file", "path": "odd.npz"}


def test_facts_of_numbers_classes_and_pictures(noether_command, spec, odd_numbers):
    ended = noether_command("data", "show", spec(train=odd_numbers), "--json")
    facts = json.loads(ended.out)["train"]
    assert (facts["samples"], facts["read"], facts["pictures"]) == (100, 100, {"image": 8})
    rows = {row["name"]: row for row in facts["properties"]}
    first, second, label = rows["x[0]"], rows["x[1]"], rows["label"]
    kept = np.delete(np.arange(100.0), [4, 5])
    assert (first["nans"], first["infinities"], first["count"], first["low"], first["high"]) == (1, 1, 98, 0, 99)
    assert (first["mean"], first["deviation"]) == pytest.approx((kept.mean(), kept.std()))
    assert sum(first["sketch"]) == 98
    assert second["is_constant"] and not first["is_constant"]
    assert label["classes"] == {"0": 34, "1": 33, "2": 33}


def test_classes_of_a_table_are_counted_by_name(noether_command, spec):
    Path("pets.csv").write_text("x,animal\n" + "1,cat\n2,dog\n" * 5 + "3,owl\n")
    animals = {"animal": ["cat", "dog", "fox", "owl"]}
    table = {"kind": "file", "path": "pets.csv", "properties": {"x": "x", "y_target": "animal"}, "categories": animals}
    facts = json.loads(noether_command("data", "show", spec(train=table), "--json").out)["train"]
    [label] = [row for row in facts["properties"] if row["name"] == "y_target"]
    assert label["classes"] == {"cat": 5, "dog": 5, "owl": 1}


def test_a_part_of_the_samples_is_read_and_that_is_said(noether_command, spec, odd_numbers):
    ended = noether_command("data", "show", spec(train=odd_numbers), "train", "--limit", "10")
    assert "100 samples, 10 read" in ended.out
    assert noether_command("data", "show", "shown.toml", "--seconds", "0").out.count(" 1 read") == 1


def test_transforms_are_seen_and_left_out(noether_command, spec, odd_numbers):
    table = {"kind": "file", "path": "train.npz", "transforms": [{"kind": "normalize", "properties": ["x"]}]}
    name = spec(train=table)
    means = []
    for option in ([], ["--raw"]):
        facts = json.loads(noether_command("data", "show", name, "--json", *option).out)["train"]
        means.append(facts["properties"][0]["mean"])
    assert means[0] == pytest.approx(0, abs=1e-6) != means[1]


def test_samples_of_any_sizes_and_types(noether_command, spec):
    ended = noether_command("data", "show", spec(train={"kind": "lab.odd.Odd"}))
    assert ended.code == 0
    assert "1 x 2 to 5 x 2" in ended.out
    assert "<script>: 4, a: 1" in ended.out


def test_a_page_is_one_file_without_scripts_or_network(noether_command, spec, odd_numbers):
    name = spec(train=odd_numbers, test={"kind": "lab.odd.Odd"})
    assert noether_command("data", "show", name, "--out", "page.html").code == 0
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(Path("page.html").read_text("utf-8"))
    names = {tag for tag, _ in tags}
    assert {"table", "svg", "img"} <= names
    assert not {"script", "link", "iframe"} & names
    assert all(str(values["src"]).startswith("data:") for tag, values in tags if tag == "img")


def test_pictures_are_written_as_a_png_that_opens(noether_command, spec, odd_numbers):
    image = pytest.importorskip("PIL.Image")
    assert noether_command("data", "show", spec(train=odd_numbers), "--out", "grid.png").code == 0
    with image.open("grid.png") as found:
        found.load()
        assert found.size == (4 * 90 + 3 * 4, 2 * 90 + 4)
    none = noether_command("data", "show", spec(train={"kind": "file", "path": "train.npz"}), "--out", "none.png")
    assert (none.code, Path("none.png").exists()) == (2, False)


@pytest.mark.parametrize("kind", ["lab.odd.Broken", "lab.odd.Stream"])
def test_a_data_set_that_cannot_be_read_is_an_error_after_the_others(noether_command, spec, kind):
    good = {"kind": "file", "path": "train.npz"}
    ended = noether_command("data", "show", spec(train=good, other={"kind": kind}))
    assert ended.code == 2
    assert "train (file)" in ended.out
    assert "error" in ended.err and "Traceback" not in ended.err


@pytest.mark.parametrize("options", [["nothing"], ["--out", "page.pdf"], ["--limit", "0"]])
def test_wrong_requests_are_refused(noether_command, spec, options):
    ended = noether_command("data", "show", spec(train={"kind": "file", "path": "train.npz"}), *options)
    assert ended.code == 2
    assert "Traceback" not in ended.err
