"""Callbacks built from configs, and participants built from callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.config.components import CallBackBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.default.reporters import EtaCallback
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.callbacks.tree import build_callback, name_callbacks, participants_of
from noether.errors import SpecError
from noether.kernel.entries import Component
from noether.kernel.hookspecs import HOOKS
from noether.testing import make_callback, make_model, make_trainer


def test_a_callback_is_built_with_its_config_and_what_every_callback_takes(tmp_path: Path) -> None:
    trainer, model = make_trainer(tmp_path), make_model()
    callback = make_callback({"kind": "ETA", "every_n_updates": 3, "id": "mine"}, trainer, model)
    assert isinstance(callback, EtaCallback)
    assert (callback.id, callback.every_n_updates) == ("mine", 3)
    assert callback.trainer is trainer
    assert callback.model is model
    assert callback.writer is trainer.log_writer
    assert callback.checkpoint_writer is trainer.checkpoint_writer
    assert callback.component.kind == "eta"


def component(target: type) -> Component:
    return Component("callback", "project.Mine", target)


def built(target: type, trainer: Any, config: CallBackBaseConfig | None = None) -> CallbackBase:
    config = config or CallBackBaseConfig(kind="project.Mine")
    config._component = component(target)
    return build_callback(config, trainer.callback_default_kwargs(make_model()))


def test_a_callback_whose_constructor_takes_no_config_is_built_without_one(tmp_path: Path) -> None:
    class Plain(CallbackBase):
        pass

    class WithOptions(CallbackBase):
        def __init__(self, greeting: str = "hello", **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.greeting = greeting

    trainer = make_trainer(tmp_path)
    assert isinstance(built(Plain, trainer), Plain)
    assert built(WithOptions, trainer).greeting == "hello"  # type: ignore[attr-defined]  # it is a WithOptions


def test_an_abstract_callback_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        built(PeriodicDataIteratorCallback, make_trainer(tmp_path), PeriodicDataIteratorCallbackConfig())
    assert "PeriodicDataIteratorCallback" in error.value.message
    assert "process_data" in error.value.message


class Bare:
    """Has what `name_callbacks` reads of a callback."""

    component: Component | None = None

    def __init__(self, id_: str) -> None:
        self.id = id_


@given(st.lists(st.sampled_from(["", "bare", "bare-2", "val"]), max_size=6))
def test_callbacks_without_an_id_get_free_ones(ids: list[str]) -> None:
    given_ids = [id_ for id_ in ids if id_]
    callbacks: Any = [Bare(id_) for id_ in ids]
    name_callbacks(callbacks)
    found = [callback.id for callback in callbacks]
    assert [new for new, old in zip(found, ids, strict=True) if old] == given_ids
    new_ids = [new for new, old in zip(found, ids, strict=True) if not old]
    assert len({*new_ids, *given_ids}) == len(new_ids) + len(set(given_ids))


def test_ids_come_from_short_kinds_and_count_up(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[{"kind": kind, "every_n_epochs": 1} for kind in ("eta", "eta", "lr")])
    callbacks = trainer.get_user_callbacks(make_model())
    assert [participant.id for participant in participants_of(callbacks)] == ["eta", "eta-2", "lr"]


class Foreign(CallbackBase):
    """Tells of its children through `get_children` alone, and calls them itself."""

    def __init__(self, children: list[CallbackBase], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.children = children

    def get_children(self) -> list[CallbackBase]:
        return self.children


def test_what_the_children_of_a_foreign_parent_own_has_ids_of_its_own_too(tmp_path: Path) -> None:
    trainer, lr = make_trainer(tmp_path), {"kind": "lr", "every_n_epochs": 1}
    ema = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.9], "eval_callbacks": [lr]}
    parent = Foreign(
        [make_callback(config, trainer) for config in (lr, ema)], **trainer.callback_default_kwargs(make_model())
    )
    callbacks = [parent, make_callback(ema, trainer), make_callback(lr, trainer)]
    expected = [
        "foreign", "foreign/lr", "foreign/ema", "foreign/ema/0.9/lr",
        "ema", "ema/0.9/lr",
        "lr",
    ]  # fmt: skip
    for _ in range(2):  # it is asked more than once
        participants = participants_of(callbacks)
        assert [participant.id for participant in participants] == expected
    assert {p.id for p in participants if p.without == frozenset(HOOKS)} == {"foreign/lr", "foreign/ema"}


def test_participants_say_where_they_come_from(tmp_path: Path) -> None:
    callbacks = [make_callback({"kind": "lr", "every_n_epochs": 1}, make_trainer(tmp_path))]
    (participant,) = participants_of(callbacks)
    assert (participant.kind, participant.distribution) == ("lr", "noether-train")
    assert participant.instance is callbacks[0]
