"""A run plugin that fails when it cannot change anything any more."""

import noether


@noether.hookimpl
def run_finished(outcome):
    raise ZeroDivisionError("too late")
