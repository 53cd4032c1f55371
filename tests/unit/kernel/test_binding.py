"""An implementation receives exactly the arguments that it names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest

from noether.kernel.compile import compile_call
from noether.kernel.participant import bind

HOOK = "track_after_update_step"
OFFERED = ("update_counter", "times")


def keyword_only(*, update_counter, times):
    return update_counter, times


def all_keywords(update_counter, **kwargs):
    return update_counter, kwargs


def default_named_as_an_argument(update_counter, times="own"):
    return update_counter, times


def keyword_only_default(*, times="own"):
    return times


def subset(times):
    return times


def default_of_its_own(update_counter, *, verbose=False):
    return update_counter, verbose


def positional_only(times, /, update_counter):
    return times, update_counter


def behind_a_positional_only_default(verbose=False, times=None, /):
    return verbose, times


def positional_only_and_all(times, /, **kwargs):
    return times, kwargs


def any_positional(*args):
    return args


@pytest.mark.parametrize(
    ("implementation", "result"),
    [
        (keyword_only, ("counter", "seconds")),
        (all_keywords, ("counter", {"times": "seconds"})),
        (default_named_as_an_argument, ("counter", "seconds")),
        (keyword_only_default, "seconds"),
        (subset, "seconds"),
        (default_of_its_own, ("counter", False)),
        (positional_only, ("seconds", "counter")),
        (behind_a_positional_only_default, (False, None)),
        (positional_only_and_all, ("seconds", {"update_counter": "counter"})),
        (any_positional, ()),
        (partial(subset, times="fixed"), "seconds"),
    ],
)
def test_implementation_gets_what_its_signature_names(implementation: Callable[..., Any], result: Any):
    assert compile_call(HOOK, implementation)(update_counter="counter", times="seconds") == result


def test_required_parameter_that_the_hook_does_not_offer_is_unknown():
    assert bind(lambda update_counters, times: None, OFFERED).unknown == ("update_counters",)


def test_decorated_method_is_bound_by_the_signature_that_it_wraps():
    @wraps(subset)
    def decorated(*args, **kwargs):
        return subset(*args, **kwargs)

    assert compile_call(HOOK, decorated)("counter", "seconds") == "seconds"


def test_method_of_an_object_is_bound_without_self():
    class Callback:
        def track_after_update_step(self, *, times):
            return times

    assert bind(Callback().track_after_update_step, OFFERED).keywords == ("times",)
