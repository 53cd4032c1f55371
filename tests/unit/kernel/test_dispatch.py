"""Participants of each hook, their order, and errors about unfit implementations."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import noether
from noether.errors import PluginError
from noether.kernel.dispatch import Dispatch, compile_dispatch
from noether.kernel.hookspecs import HOOKS, inherited_no_op, when_due
from noether.kernel.participant import Participant
from noether.kernel.progress import NEVER

ROUND = {"trainer_model": "model", "data_iter": "data", "batch_size": 4}


@dataclass
class Counter:
    update: int = 120
    epoch: int = 1
    sample: int = 480
    updates_per_epoch: int = 100
    effective_batch_size: int = 4

    @property
    def is_full_epoch(self) -> bool:
        return self.update % self.updates_per_epoch == 0


class Base:
    """A base class of callbacks: documents a hook, asks for another when due."""

    @inherited_no_op
    def before_training(self, *, update_counter):
        raise AssertionError("an inherited no-op is no implementation")

    @when_due
    def after_update(self, update_counter, **kwargs):
        return "due"

    def next_due_update(self, update_counter):
        return 130


class Named:
    """Answers one hook with its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def before_training(self):
        return self.name


def component(identity: str, instance: Any) -> Participant:
    return Participant(identity, identity, instance, "noether-train", "0.1.0")


def plugin(identity: str, **functions: Any) -> Participant:
    return Participant(identity, identity, SimpleNamespace(**functions), "noether-plugin-x", "1.2", is_plugin=True)


def answering(answer: str, **options: bool) -> Any:
    return noether.hookimpl(**options)(lambda: answer)


def refusal(*instances: Any) -> str:
    with pytest.raises(PluginError) as caught:
        compile_dispatch([component(f"c{place}", instance) for place, instance in enumerate(instances)])
    return str(caught.value)


def test_dispatch_has_one_attribute_for_each_hook_but_the_periodic_one():
    hooks = {name for name in Dispatch.__slots__ if not name.startswith("_") and not name.endswith("_always")}
    assert hooks == set(HOOKS) - {"periodic_callback"}


def test_hook_without_implementations_is_none():
    dispatch = compile_dispatch([component("base", Base())])
    assert dispatch.before_training is None
    assert dispatch.order("before_training") == []


def test_overriding_an_inherited_no_op_implements_it():
    class Callback(Base):
        def before_training(self, *, update_counter):
            return update_counter

    dispatch = compile_dispatch([component("callback", Callback())])
    assert dispatch.before_training is not None
    assert dispatch.before_training(update_counter=7) == [7]


def test_arguments_are_taken_by_position_too_and_none_is_no_result():
    class Silent:
        def track_after_update_step(self, times):
            self.times = times

    silent = Silent()
    dispatch = compile_dispatch([component("silent", silent)])
    assert dispatch.track_after_update_step is not None
    assert dispatch.track_after_update_step("counter", {"data_time": 1.0}) == []
    assert silent.times == {"data_time": 1.0}


def test_components_run_in_spec_order_between_first_and_other_plugins():
    dispatch = compile_dispatch(
        [
            plugin("last", before_training=answering("last", trylast=True)),
            plugin("other", before_training=answering("other")),
            component("a", Named("a")),
            plugin("first", before_training=answering("first", tryfirst=True)),
            component("b", Named("b")),
            plugin("another", before_training=answering("another")),
        ]
    )
    assert dispatch.before_training is not None
    called = dispatch.before_training(Counter())
    assert called == ["first", "a", "b", "other", "another", "last"]
    assert dispatch.order("before_training") == called


def test_overridden_after_update_is_called_always_and_an_inherited_one_when_due():
    class Always(Base):
        def after_update(self, update_counter, **kwargs):
            return "always"

    dispatch = compile_dispatch([component("due", Base()), component("always", Always())])
    assert dispatch.after_update is not None
    assert dispatch.after_update_always is not None
    assert dispatch.after_update(Counter(), **ROUND) == ["due", "always"]
    assert dispatch.after_update_always(Counter(), **ROUND) == ["always"]
    assert dispatch.next_due_update(Counter()) == 130


def test_round_without_due_callbacks_is_not_called_at_all():
    assert compile_dispatch([component("due", Base())]).after_update_always is None


def test_without_intervals_nothing_is_ever_due():
    assert compile_dispatch([component("a", Named("a"))]).next_due_update(Counter()) == NEVER


def test_owner_that_is_never_due_again_is_left_out_of_the_minimum():
    class Finished(Base):
        def next_due_update(self, update_counter):
            return None

    participants = [component("finished", Finished()), component("due", Base())]
    assert compile_dispatch(participants[:1]).next_due_update(Counter()) == NEVER
    assert compile_dispatch(participants).next_due_update(Counter()) == 130


def test_property_is_never_evaluated():
    class Callback(Named):
        @property
        def logger(self):
            raise RuntimeError("evaluated")

    assert compile_dispatch([component("a", Callback("a"))]).before_training is not None


def test_object_that_cannot_be_compared_or_hashed_takes_part():
    class Hostile(Named):
        __hash__ = None  # type: ignore[assignment]  # what is tested

        def __eq__(self, other):
            raise RuntimeError("compared")

    dispatch = compile_dispatch([component("a", Hostile("a")), component("b", Hostile("b"))])
    assert dispatch.order("before_training") == ["a", "b"]


def test_attributes_that_are_no_functions_are_not_even_looked_at():
    class Hostile:
        def __getattr__(self, name):
            raise RuntimeError("looked at")

    callback = Named("a")
    callback.data = Hostile()  # type: ignore[attr-defined]  # any attribute
    assert compile_dispatch([component("a", callback)]).order("before_training") == ["a"]


def test_undecorated_function_of_a_plugin_is_not_a_hook():
    participant = plugin("x", before_training=lambda: "no", after_training=answering("yes"))
    dispatch = compile_dispatch([participant])
    assert dispatch.before_training is None
    assert dispatch.order("after_training") == ["x"]


def test_specname_says_which_hook_a_function_implements():
    @noether.hookimpl(specname="run_finished")
    def report(outcome):
        return outcome

    dispatch = compile_dispatch([plugin("x", report=report)])
    assert dispatch.run_finished is not None
    assert dispatch.run_finished(run=None, outcome="done") == ["done"]


def test_module_is_a_plugin():
    module = ModuleType("noether_x")
    module.before_training = answering("module")  # type: ignore[attr-defined]  # a module of our own
    dispatch = compile_dispatch([Participant("x", "x", module, is_plugin=True)])
    assert dispatch.order("before_training") == ["x"]


def test_all_problems_are_reported_at_once_with_the_names_meant():
    class Unfit:
        def track_after_update_step(self, *, update_counters, times): ...

        def after_trainning(self): ...

    class Lazy:
        def before_training(self):
            yield

    text = refusal(Unfit(), Lazy())
    assert "callback 'c0': track_after_update_step has no argument 'update_counters'" in text
    assert "Did you mean 'update_counter'?" in text
    assert "Unfit.after_trainning is not a hook. Did you mean 'after_training'?" in text
    assert "callback 'c1': before_training is a generator" in text
    assert "test_dispatch.py:" in text


def test_argument_of_a_components_periodic_callback_is_checked_though_its_owner_calls_it():
    class Periodic:
        def periodic_callback(self, *, interval): ...

    assert "periodic_callback has no argument 'interval'. Did you mean 'interval_type'?" in refusal(Periodic())


@pytest.mark.parametrize(
    "name",
    [
        "after_trainning",
        "beforeTraining",
        "after_updates",
        "after_udpate",
        "after_eopch",
        "track_after_update_steps",
    ],
)
def test_method_that_almost_has_a_hooks_name_is_refused(name: str):
    assert f".{name} is not a hook" in refusal(type("Mine", (Named,), {name: lambda self: None})("a"))


@pytest.mark.parametrize(
    "name",
    [
        "before",
        "after_train_batch_stats",
        "process_results",
        "updates_till_next_invocation",
        "after_train",
        "on_update",
    ],
)
def test_helper_method_keeps_its_name(name: str):
    mine = type("Mine", (Named,), {name: lambda self: None})("a")
    assert compile_dispatch([component("mine", mine)]).order("before_training") == ["mine"]


def test_decorated_function_that_is_not_a_hook_is_refused_unless_optional():
    with pytest.raises(PluginError) as caught:
        compile_dispatch([plugin("x", after_trainning=answering("no"))])
    for name in ("plugin 'x'", "'after_trainning'", "'after_training'"):
        assert name in caught.value.message
    compile_dispatch([plugin("x", of_a_later_version=answering("no", optionalhook=True))])


def test_property_with_the_name_of_a_hook_is_refused():
    class Callback:
        @property
        def before_training(self):
            raise RuntimeError("evaluated")

    assert "before_training is a property, but a hook is a method" in refusal(Callback())


def test_wrapper_without_yield_is_refused():
    with pytest.raises(PluginError) as caught:
        compile_dispatch([plugin("x", before_training=answering("no", wrapper=True))])
    assert "plugin 'x' of noether-plugin-x 1.2: before_training" in str(caught.value)


def test_two_participants_cannot_share_an_id():
    with pytest.raises(PluginError) as caught:
        compile_dispatch([component("a", Named("a")), plugin("a", before_training=answering("a"))])
    assert "callback 'a' and plugin 'a'" in str(caught.value)


def test_digest_depends_on_order_kinds_and_versions_only():
    def digest(*names: str, version: str = "0.1.0", kind: str = "k") -> str:
        return compile_dispatch([Participant(n, kind, Named(n), "noether-train", version) for n in names]).digest()

    assert digest("a", "b") == digest("a", "b")
    changed = {
        digest("b", "a"),
        digest("a", "b", version="0.2.0"),
        digest("a", "b", kind="other"),
        digest("a"),
    }
    assert len(changed | {digest("a", "b")}) == 5
