"""`noether spec schema` in an editor: tombi lints specs with it."""

import json
from pathlib import Path

import pytest

DIGITS = (Path(__file__).parents[3] / "specs/smoke/digits.toml").read_text()


def replaced(old: str, new: str) -> str:
    assert DIGITS.count(old) == 1, old
    return DIGITS.replace(old, new)


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 2  # the linted file begins with the line that names the schema


def test_every_spec_that_we_ship_passes(lint, shipped_spec: Path):
    assert lint(shipped_spec.read_text()) == ""


def test_its_resolved_form_passes(lint, noether_command, shipped_spec: Path):
    ended = noether_command("spec", "resolve", shipped_spec)
    assert lint(ended.out) == ""


@pytest.mark.parametrize(
    "change",
    [
        ('kind = "mlp"', 'kind = "my_project.models.Mine"\nany_option = 3'),
        ("lr = 2e-3", 'lr = { env = "LR", default = 1e-3 }'),
        ("hidden = [128]", 'hidden = { env = "WIDTHS" }'),
        ("hidden = [128]", "hidden = [64, 64]\nfrozen = ['encoder.*']"),
        ('loss_fn = "cross-entropy"', 'loss_fn = { kind = "cross-entropy", label_smoothing = 0.1 }'),
        ('loss_fn = "cross-entropy"', 'loss_fn = "my_project.losses.mine"'),
        ('name = "digits"\n', ""),
    ],
)
def test_what_a_spec_may_say_passes(lint, change):
    assert lint(replaced(*change)) == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_epochs = 10", "max_epoch = 10", '"max_epoch" is not allowed'),
        ("max_epochs = 10", 'max_epochs = "ten"', "expected a value of type Integer, but found String"),
        ("max_epochs = 10", "max_epochs = 1.5", "expected a value of type Integer, but found Float"),
        ("max_epochs = 10", "max_epochs = -1", "-1"),
        ("every_n_epochs = 2", "every_n_epoch = 2", '"every_n_epoch" is not allowed'),
        ("clip_grad_norm = 1.0", "clip_grad_nrm = 1.0", '"clip_grad_nrm" is not allowed'),
        ('kind = "mlp"', 'kind = "mpl"', 'found ""mpl""'),
        ('kind = "checkpoint"', 'kind = "chekpoint"', 'found ""chekpoint""'),
        ('metrics = { label = ["accuracy"] }', 'metrics = { label = ["acuracy"] }', 'found "acuracy"'),
        ("lr = 2e-3", 'lr = { env = "LR", defalt = 1 }', "defalt"),
        ("seed = 0", "sed = 0", '"sed" is not allowed'),
        ("spec = 1", "spec = 2", "2"),
    ],
)
def test_the_problem_is_marked_in_its_line(lint, old, new, message):
    text = replaced(old, new)
    said = lint(text)
    assert message in said
    assert f"linted.toml:{line_of(text, new)}:" in said


def test_a_missing_option_is_reported(lint):
    assert '"effective_batch_size" is required' in lint(replaced("effective_batch_size = 64\n", ""))


EXTENDING = """extends = ["digits.toml"]

[model.optimizer]
lr = 2e-3

[trainer]
max_epochs = 3

[[trainer.callbacks]]
id = "checkpoint"
every_n_epochs = 3

[[trainer.callbacks]]
id = "offline-metrics"
remove = true
"""


def test_a_spec_that_extends_another_may_be_a_part_of_one(lint):
    assert lint(EXTENDING) == ""


@pytest.mark.parametrize("change", [("max_epochs", "max_epoch"), ("2e-3", '"fast"'), ("[model", "[modle")])
def test_a_part_of_a_spec_is_checked_too(lint, change):
    assert "Error" in lint(EXTENDING.replace(*change))


def test_the_schema_is_printed_where_no_file_is_named(noether_command):
    ended = noether_command("spec", "schema")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["$schema"].endswith("2020-12/schema")
