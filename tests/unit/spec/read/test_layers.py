"""`extends`: order of layers, and the origin of each value."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noether.spec.read.document import MAX_FILES

BASE = """
seed = 1
threads = 2
[datasets.train]
kind = "points"
[model]
kind = "net"
hidden = [1, 2, 3]
optimizer = { kind = "AdamW", lr = 0.1, betas = [0.5, 0.6] }
[trainer]
kind = "goal"
max_epochs = 10
effective_batch_size = 4
[[trainer.callbacks]]
id = "a"
kind = "note"
every_n_epochs = 1
[[trainer.callbacks]]
kind = "note"
every_n_epochs = 2
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes files by name in the working folder; returns the first."""
    monkeypatch.chdir(tmp_path)

    def write(first: str, **others: str) -> Path:
        for name, text in {"a": first, **others}.items():
            path = Path(*name.split("_")).with_suffix(".toml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return Path("a.toml")

    return write


@pytest.fixture
def spec(load: Callable, files: Callable) -> Callable[..., Any]:
    """Loads a file that extends `base.toml`."""

    def loaded(text: str, *arguments: str, **others: str) -> Any:
        return load(files(f'extends = ["base.toml"]\n{text}', base=BASE, **others), arguments).spec

    return loaded


def test_tables_merge_and_values_replace(spec: Callable):
    found = spec("seed = 2\n[model.optimizer]\nlr = 0.2")
    assert (found.seed, found.threads) == (2, 2)
    assert (found.model.optimizer.lr, found.model.optimizer.betas) == (0.2, (0.5, 0.6))


def test_plain_arrays_replace(spec: Callable):
    assert spec("[model]\nhidden = [9]").model.hidden == [9]


def test_a_table_of_another_kind_replaces(spec: Callable):
    optimizer = spec('model.optimizer = { kind = "SGD" }').model.optimizer
    assert (optimizer.kind, optimizer.lr) == ("SGD", 0.001)


def test_a_table_of_the_same_kind_merges(spec: Callable):
    assert spec('model.optimizer = { kind = "AdamW", eps = 1e-3 }').model.optimizer.lr == 0.1


CALLBACKS = {
    "the same id merges in place": ('id = "a"\nevery_n_epochs = 5', [("a", 5), ("note", 2)]),
    "another id is appended": ('id = "b"\nkind = "note"\nevery_n_epochs = 5', [("a", 1), ("note", 2), ("b", 5)]),
    "without an id it is appended": ('kind = "note"\nevery_n_epochs = 5', [("a", 1), ("note", 2), ("note-2", 5)]),
    "another is removed": ('id = "a"\nremove = true', [("note", 2)]),
    "one is replaced": (
        'id = "a"\nremove = true\n[[trainer.callbacks]]\nid = "a"\nkind = "note"\nevery_n_epochs = 5',
        [("note", 2), ("a", 5)],
    ),
}


@pytest.mark.parametrize(("item", "expected"), CALLBACKS.values(), ids=CALLBACKS)
def test_arrays_of_tables_merge_by_id(spec: Callable, item: str, expected: list):
    callbacks = spec(f"[[trainer.callbacks]]\n{item}").trainer.callbacks
    assert [(callback.id, callback.every_n_epochs) for callback in callbacks] == expected


def test_an_empty_array_replaces_an_array_of_tables(spec: Callable):
    assert spec("trainer.callbacks = []").trainer.callbacks == []


def test_an_array_of_tables_in_an_override_replaces(spec: Callable):
    override = 'trainer.callbacks=[{id="a", kind="note", every_n_epochs=7}]'
    assert [callback.every_n_epochs for callback in spec("", override).trainer.callbacks] == [7]


def test_nested_arrays_of_tables_merge_too(load: Callable, files: Callable):
    nested = '[[trainer.callbacks]]\nid = "m"\nkind = "average"\nevery_n_epochs = 1\n'
    base = BASE + nested + '[[trainer.callbacks.eval_callbacks]]\nid = "n"\nkind = "note"\nevery_n_epochs = 1\n'
    top = '[[trainer.callbacks]]\nid = "m"\n[[trainer.callbacks.eval_callbacks]]\nid = "n"\nevery_n_epochs = 4\n'
    (child,) = load(files(f'extends = ["base.toml"]\n{top}', base=base)).spec.trainer.callbacks[-1].eval_callbacks
    assert (child.kind, child.every_n_epochs) == ("note", 4)


def test_two_items_of_one_id_in_one_file_stay_two(refused: Callable, files: Callable):
    item = '[[trainer.callbacks]]\nid = "a"\nkind = "note"\nevery_n_epochs = 1\n'
    found = refused(files('extends = ["base.toml"]\n' + item + item, base=BASE))
    assert found.codes == ["duplicate-id trainer.callbacks.2.id"]


def test_files_lie_in_their_order_below_the_file(load: Callable, files: Callable):
    files('extends = ["base.toml", "x.toml", "y.toml"]\nseed = 4', base=BASE, x="seed=2\nthreads=3", y="seed=3")
    spec = load("a.toml").spec
    assert (spec.seed, spec.threads) == (4, 3)


def test_a_file_that_two_others_extend_lies_where_it_is_met_first(load: Callable, files: Callable):
    x, y = 'extends = ["base.toml"]\nseed = 2', 'extends = ["base.toml"]'
    spec = load(files('extends = ["x.toml", "y.toml"]', base=BASE, x=x, y=y)).spec
    assert spec.seed == 2
    assert len(spec.trainer.callbacks) == 2


def test_paths_are_relative_to_the_file_that_holds_them(load: Callable, files: Callable, tmp_path: Path):
    inner = 'extends = ["../base.toml"]\n[datasets.train]\nroot = "data"\nextra = ["e"]'
    files('extends = ["sub/inner.toml"]\n[datasets.test]\nkind = "points"\nroot = "data"', base=BASE, sub_inner=inner)
    datasets = load("a.toml", ['datasets.train.extra+="f"']).spec.datasets
    assert datasets["train"].root == tmp_path / "sub" / "data"
    assert datasets["train"].extra == [str(tmp_path / "sub" / "e"), str(tmp_path / "f")]
    assert datasets["test"].root == tmp_path / "data"


def test_paths_in_overrides_start_at_the_working_folder(load: Callable, files: Callable, tmp_path: Path):
    files("", sub_s=BASE)
    spec = load("sub/s.toml", ["datasets.train.root=x"], set={"datasets.train.extra": ["y"]}).spec
    assert spec.datasets["train"].root == tmp_path / "x"
    assert spec.datasets["train"].extra == [str(tmp_path / "y")]


def test_a_dict_extends_files_of_the_working_folder(load: Callable, files: Callable):
    files("", base=BASE)
    assert load({"extends": ["base.toml"], "seed": 5}).spec.threads == 2


def test_every_layer_of_a_value_is_known_newest_first(load: Callable, files: Callable):
    path = files('extends = ["base.toml"]\nseed = 2', base=BASE)
    origins = load(path, ["seed=3", "threads=1", "seed=4"], set={"seed": 5}).origins
    found = [
        (source.origin, source.value, source.place and (source.place.line, source.place.column))
        for source in origins.of(("seed",))
    ]
    assert found == [
        ("set", 5, None),
        ("command line, argument 3", 4, (1, 6)),
        ("command line, argument 1", 3, (1, 6)),
        ("a.toml", 2, (2, 8)),
        ("base.toml", 1, (2, 8)),
    ]
    assert [source.origin for source in origins.of(("name",))] == ["default"]
    assert origins.of(("deterministic",)) == ()


def test_items_know_their_layers_wherever_they_end_up(load: Callable, files: Callable):
    item = '[[trainer.callbacks]]\nid = "a"\nremove = true\n[[trainer.callbacks]]\nid = "b"\nkind = "note"\n'
    path = files(f'extends = ["base.toml"]\n{item}every_n_epochs = 3', base=BASE)
    origins = load(path, ["trainer.callbacks[b].every_n_epochs=4"]).origins
    assert [source.place.origin for source in origins.of(("trainer", "callbacks", 0, "kind"))] == ["base.toml"]
    chain = origins.of(("trainer", "callbacks", 1, "every_n_epochs"))
    assert [(source.origin, source.value) for source in chain] == [("command line, argument 1", 4), ("a.toml", 3)]
    assert origins.of(("trainer", "callbacks", 1, "id"))


def test_a_circle_is_reported_with_its_files(shown: Callable, files: Callable):
    path = files('extends = ["x.toml"]', x='seed = 1\nextends = [\n  "a.toml"]')
    assert shown(path) == (
        "error[invalid-extends]: the files extend one another in a circle: a.toml → x.toml → a.toml\n"
        " --> x.toml:3:3   [extends.0], pulled in by a.toml:1\n"
        "  |\n"
        '3 |   "a.toml"]\n'
        "  |   ^^^^^^^^\n"
        "\n"
        "1 problem in x.toml"
    )


def test_a_missing_base_is_reported_at_its_extends(shown: Callable, files: Callable, tmp_path: Path):
    path = files('extends = ["sub/x.toml"]', sub_x='extends = ["y.toml"]')
    assert shown(path) == (
        "error[unreadable-file]: spec file not found: sub/y.toml; extended by a.toml → sub/x.toml → sub/y.toml\n"
        " --> sub/x.toml:1:12   [extends.0], pulled in by a.toml:1\n"
        "  |\n"
        '1 | extends = ["y.toml"]\n'
        "  |            ^^^^^^^^\n"
        f"  = help: paths in extends are relative to the folder of their file: {tmp_path / 'sub'}\n"
        "\n"
        "1 problem in sub/x.toml"
    )


WRONG = {
    'extends = "base.toml"': "invalid-extends extends",
    "extends = [1]": "invalid-extends extends.0",
    'extends = ["a.toml"]': "invalid-extends extends.0",
    'extends = ["a\\u0000b"]': "invalid-extends extends.0",
    'extends = ["~nobody-of-this-name/a.toml"]': "invalid-extends extends.0",
    'extends = ["."]': "unreadable-file extends.0",
    'extends = ["base.toml"]\n[[trainer.callbacks]]\nid="b"\nremove=true': "unknown-path trainer.callbacks.0.id",
    'extends = ["base.toml"]\n[[trainer.callbacks]]\nremove=true': "unknown-path trainer.callbacks.0.remove",
    '[[trainer.callbacks]]\nid="b"\nremove=true': "unknown-path trainer.callbacks.0.id",
}


@pytest.mark.parametrize(("text", "code"), WRONG.items())
def test_files_that_do_not_fit_together_are_refused(refused: Callable, files: Callable, text: str, code: str):
    assert refused(files(text, base=BASE)).codes == [code]


def test_a_base_in_a_later_format_is_one_problem_at_its_place(refused: Callable, files: Callable):
    found = refused(files('extends = ["base.toml"]', base="later = 1\nspec = 2"))
    assert found.codes == ["unsupported-version spec"]
    assert (found.problems[0].places[0].origin, found.problems[0].places[0].line) == ("base.toml", 2)


def test_an_override_cannot_extend(refused: Callable, files: Callable):
    assert refused(files(BASE), ['extends=["b.toml"]']).codes == ["wrong-value extends"]


def test_very_many_files_are_refused(refused: Callable, files: Callable):
    others = {f"n{i}": f'extends = ["n{i + 1}.toml"]' for i in range(MAX_FILES + 5)}
    assert refused(files('extends = ["n0.toml"]', **others)).codes == ["too-large extends.0"]


def test_files_that_are_large_together_are_refused(refused: Callable, files: Callable):
    others = {f"n{i}": "#" * 500_000 for i in range(3)}
    path = files('extends = ["n0.toml", "n1.toml", "n2.toml"]', **others)
    assert refused(path).codes == ["too-large extends.2"]
