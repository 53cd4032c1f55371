"""A compiled hook behaves as in pluggy, and adds notes to errors."""

from __future__ import annotations

import linecache
import traceback
from typing import Any

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.kernel import compile as compile_module
from noether.kernel import hookimpl, hookspecs
from noether.kernel.dispatch import compile_dispatch
from noether.kernel.hookspecs import HOOKS, when_due
from noether.kernel.participant import Participant

HOOK = "after_update"
ARGUMENTS = dict(zip(HOOKS[HOOK], ("counter", "model", "data", 4), strict=True))


class Counter:
    update = 120


def make(name: int, arguments: tuple[str, ...], flags: dict[str, bool], answers: bool, log: list[Any]) -> Any:
    """Return a plugin object whose `after_update` names `arguments`, logs its call and answers with it."""
    wraps = flags.get("wrapper") or flags.get("hookwrapper")
    seen = f"({name}, {', '.join(arguments)})"
    source = f"def after_update({', '.join(arguments)}):\n    log.append({seen})\n"
    if flags.get("wrapper"):
        source += f"    results = yield\n    log.append({-name})\n    return [*results, {seen}]\n"
    elif wraps:
        source += f"    outcome = yield\n    log.append({-name})\n"
        source += f"    outcome.force_result([*outcome.get_result(), {seen}])\n"
    elif answers:
        source += f"    return {seen}\n"
    scope: dict[str, Any] = {"log": log}
    exec(source, scope)
    return type("Plugin", (), {HOOK: staticmethod(hookimpl(**flags)(scope[HOOK]))})()


FLAGS = st.sampled_from(
    [
        {},
        {},
        {"tryfirst": True},
        {"trylast": True},
        {"wrapper": True},
        {"hookwrapper": True},
        {"wrapper": True, "tryfirst": True},
        {"wrapper": True, "trylast": True},
    ]
)
SUBSETS = st.lists(st.sampled_from(HOOKS[HOOK]), unique=True).map(tuple)


@given(st.lists(st.tuples(SUBSETS, FLAGS, st.booleans()), min_size=1, max_size=7))
def test_compiled_hook_agrees_with_pluggy_in_order_and_results(
    drawn: list[tuple[tuple[str, ...], dict[str, bool], bool]],
):
    log: list[Any] = []
    plugins = [make(name, *each, log) for name, each in enumerate(drawn, start=1)]

    manager = pluggy.PluginManager("noether")
    manager.add_hookspecs(hookspecs)
    last = [one for one, (_, flags, _) in zip(plugins, drawn, strict=True) if flags.get("trylast")]
    # pluggy calls the last registered first, but those marked trylast in the order of registration
    for registered in [*last, *(one for one in reversed(plugins) if one not in last)]:
        manager.register(registered)
    expected = manager.hook.after_update(**ARGUMENTS)
    expected_log, log[:] = list(log), []

    participants = [Participant(str(place), "p", one, is_plugin=True) for place, one in enumerate(plugins)]
    call = compile_dispatch(participants).after_update
    assert call is not None
    assert call(**ARGUMENTS) == expected
    assert log == expected_log


class Failing:
    def before_training(self):
        raise ValueError("broken")


class Wrapper:
    @hookimpl(wrapper=True)
    def before_training(self):
        return (yield)


class Suppressing:
    @hookimpl(wrapper=True)
    def before_training(self):
        try:
            return (yield)
        except ValueError:
            return ["suppressed"]


def failing(*before: Any) -> Any:
    participants = [Participant(f"w{place}", "w", one) for place, one in enumerate(before)]
    ema = Participant("ema", "ema", Failing(), "noether-train", "0.1.0")
    call = compile_dispatch([*participants, ema]).before_training
    assert call is not None
    return call


@pytest.mark.parametrize("wrappers", [(), (Wrapper(),), (Wrapper(), Wrapper())])
def test_exception_carries_one_note_that_names_its_callback(wrappers: tuple[Any, ...]):
    with pytest.raises(ValueError, match="broken") as caught:
        failing(*wrappers)(Counter())
    assert caught.value.__notes__ == [
        "raised by callback 'ema' (kind ema, noether-train 0.1.0) in hook before_training at update 120"
    ]


def test_exception_of_a_child_carries_a_note_for_the_parent_too():
    class Parent:
        def before_training(self, update_counter):
            failing()(update_counter)

    call = compile_dispatch([Participant("parent", "parent", Parent())]).before_training
    assert call is not None
    with pytest.raises(ValueError, match="broken") as caught:
        call(Counter())
    assert [note.partition(" (")[0] for note in caught.value.__notes__] == [
        "raised by callback 'ema'",
        "raised by callback 'parent'",
    ]


def test_exception_of_a_wrapper_names_the_wrapper():
    class Broken:
        @hookimpl(wrapper=True)
        def run_finished(self):
            yield
            raise ValueError("broken")

    call = compile_dispatch([Participant("report", "report", Broken(), is_plugin=True)]).run_finished
    assert call is not None
    with pytest.raises(ValueError, match="broken") as caught:
        call(run=None, outcome=None)
    assert caught.value.__notes__ == ["raised by plugin 'report' in hook run_finished"]


def test_wrapper_may_replace_an_exception_by_results():
    assert failing(Suppressing())(Counter()) == ["suppressed"]


def test_wrapper_is_called_in_rounds_that_are_not_due():
    class Always:
        @hookimpl(wrapper=True)
        def after_update(self):
            yield
            return ["wrapped"]

    dispatch = compile_dispatch([Participant("w", "w", Always())])
    assert dispatch.after_update_always is not None
    assert dispatch.after_update_always(**ARGUMENTS) == ["wrapped"]


def test_wrapper_around_due_callbacks_is_called_without_them_in_other_rounds():
    class Due:
        @when_due
        def after_update(self):
            return "due"

        def next_due_update(self, update_counter):
            return 1

    class Listing:
        @hookimpl(wrapper=True)
        def after_update(self):
            return ["wrapped", *(yield)]

    dispatch = compile_dispatch([Participant("due", "due", Due()), Participant("w", "w", Listing())])
    assert dispatch.after_update is not None
    assert dispatch.after_update_always is not None
    assert dispatch.after_update(**ARGUMENTS) == ["wrapped", "due"]
    assert dispatch.after_update_always(**ARGUMENTS) == ["wrapped"]


def test_traceback_shows_the_generated_call():
    with pytest.raises(ValueError, match="broken") as caught:
        failing()(Counter())
    assert "_result = _call_0()" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_generated_source_is_forgotten_with_its_hook():
    call = failing()
    filename = call.__code__.co_filename
    assert filename in linecache.cache
    del call
    assert filename not in linecache.cache


def test_a_hundred_callbacks_without_wrappers_compile_no_more_functions_than_one(monkeypatch: pytest.MonkeyPatch):
    class Quiet:
        def before_training(self) -> None: ...
        def after_training(self) -> None: ...

    def compiled(count: int) -> int:
        made: list[str] = []
        define = compile_module.define
        with monkeypatch.context() as patched:
            patched.setattr(compile_module, "define", lambda name, *rest: made.append(name) or define(name, *rest))
            compile_dispatch([Participant(f"quiet-{number}", "quiet", Quiet()) for number in range(count)])
        return len(made)

    assert compiled(100) == compiled(1) > 0
