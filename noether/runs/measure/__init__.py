"""Measure a run: its updates beside a bare loop, the costs of its callbacks, a profile."""
