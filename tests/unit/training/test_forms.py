"""The form of an update: chosen before training, kept by a resume."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noether.errors import CheckpointError
from noether.testing import make_model, make_trainer
from noether.training import forms
from noether.training.forms import EAGER, Form, choose
from noether.training.parallel import Single
from noether.training.update import Update


class Quick(Update):
    """An update in another form; it computes what the eager one does."""

    form = "graph"

    def __init__(self, plain: Update) -> None:
        super().__init__(plain.train_step, plain.precision, plain.guard)
        self.plain = plain


def form(name: str, *, equals_eager: bool, refusal: str | None = None) -> Form:
    def build(trainer: Any, update: Update, model: Any) -> Update:
        quick = Quick(update)
        quick.form = name
        return quick

    return Form(name, equals_eager, lambda trainer, model: refusal, build, is_automatic=equals_eager)


GRAPH = form("graph", equals_eager=True)
COMPILED = form("compiled", equals_eager=False)
NO_GRAPH = form("graph", equals_eager=True, refusal="no device")
NO_COMPILED = form("compiled", equals_eager=False, refusal="no compiler")


def chosen(monkeypatch: pytest.MonkeyPatch, asked: str, *known: Form, explain: bool = False) -> tuple[str, dict]:
    monkeypatch.setattr(forms, "FORMS", (*known, EAGER))
    trainer = SimpleNamespace(parallel=Single())
    found = choose(asked, trainer, None, explain=explain)  # type: ignore[arg-type]  # these forms look at neither
    return found.form.name, dict(found.reasons)


@pytest.mark.parametrize(
    ("asked", "form"), [("eager", "eager"), ("compiled", "compiled"), ("graph", "graph"), ("auto", "graph")]
)
def test_a_form_that_is_asked_for_and_possible_is_used(monkeypatch, asked, form):
    assert chosen(monkeypatch, asked, GRAPH, COMPILED)[0] == form


def test_auto_chooses_no_form_with_other_roundings(monkeypatch):
    name, reasons = chosen(monkeypatch, "auto", NO_GRAPH, COMPILED)
    assert (name, reasons["graph"]) == ("eager", "no device")
    assert reasons["compiled"].startswith("possible")


@pytest.mark.parametrize("asked", ["compiled", "graph"])
def test_a_form_that_is_not_possible_gives_way_to_the_eager_one(monkeypatch, asked):
    assert chosen(monkeypatch, asked, NO_GRAPH, NO_COMPILED)[0] == "eager"


def test_the_forms_that_were_not_asked_for_are_looked_at_only_for_an_explanation(monkeypatch):
    assert chosen(monkeypatch, "eager", NO_GRAPH)[1]["graph"].startswith("possible")
    assert chosen(monkeypatch, "eager", NO_GRAPH, explain=True)[1]["graph"] == "no device"


def test_a_run_that_gives_way_says_so_in_one_line(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(forms, "FORMS", (NO_COMPILED, EAGER))
    with caplog.at_level(logging.WARNING, "noether"):
        make_trainer(tmp_path, update="compiled").train(make_model())
    assert [record.getMessage() for record in caplog.records] == ["updates are eager, not compiled: no compiler"]


def test_a_trainer_that_trains_again_replaces_its_form(monkeypatch, tmp_path):
    monkeypatch.setattr(forms, "FORMS", (GRAPH, EAGER))
    trainer = make_trainer(tmp_path, update="graph", max_updates=2)
    first = trainer.one_update
    for _ in range(2):
        trainer.prepare(make_model())
    assert (trainer.one_update.form, trainer.one_update.plain is first) == ("graph", True)


def saved_in(monkeypatch: pytest.MonkeyPatch, folder: Path, *known: Form, asked: str) -> dict[str, Any]:
    monkeypatch.setattr(forms, "FORMS", (*known, EAGER))
    trainer = make_trainer(folder, update=asked)
    trainer.prepare(make_model())
    return trainer.state_dict()


def resumed_in(monkeypatch: pytest.MonkeyPatch, folder: Path, state: dict, *known: Form, asked: str) -> str:
    monkeypatch.setattr(forms, "FORMS", (*known, EAGER))
    trainer = make_trainer(folder, update=asked)
    trainer.prepare(make_model())
    trainer.load_state_dict(state)
    return trainer.one_update.form


def test_every_state_has_the_form_that_was_asked_for_and_the_one_that_is_used(monkeypatch, tmp_path):
    state = saved_in(monkeypatch, tmp_path, NO_COMPILED, asked="compiled")
    assert state["form"] == {"asked": "compiled", "form": "eager"}


def test_a_run_whose_form_is_not_possible_any_more_refuses_to_go_on_with_other_roundings(monkeypatch, tmp_path):
    state = saved_in(monkeypatch, tmp_path, COMPILED, asked="compiled")
    with pytest.raises(CheckpointError, match="no compiler"):
        resumed_in(monkeypatch, tmp_path, state, NO_COMPILED, asked="compiled")


def test_a_form_that_equals_the_eager_one_may_change_with_the_machine(monkeypatch, tmp_path):
    state = saved_in(monkeypatch, tmp_path, GRAPH, asked="auto")
    assert resumed_in(monkeypatch, tmp_path, state, NO_GRAPH, asked="auto") == "eager"


def test_another_form_in_the_spec_is_taken_as_it_is_asked_for(monkeypatch, tmp_path):
    state = saved_in(monkeypatch, tmp_path, COMPILED, asked="compiled")
    assert resumed_in(monkeypatch, tmp_path, state, COMPILED, asked="eager") == "eager"
