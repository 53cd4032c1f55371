"""Test kit for Noether and its plugins: small real objects, so that nobody has to fake any."""

from noether.testing.builders import make_callback, make_counter, make_data, make_model, make_trainer

__all__ = ["make_callback", "make_counter", "make_data", "make_model", "make_trainer"]
