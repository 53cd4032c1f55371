"""A run plugin that fails after the run has ended."""

import noether


@noether.hookimpl
def run_finished(outcome):
    raise ZeroDivisionError("too late")
