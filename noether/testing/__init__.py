"""Test kit for Noether and its plugins: builders of small real objects, instead of fakes."""

from noether.testing.builders import make_callback, make_counter, make_data, make_model, make_trainer
from noether.testing.device import RecordingDevice

__all__ = ["RecordingDevice", "make_callback", "make_counter", "make_data", "make_model", "make_trainer"]
