"""Predictions of a trained run, in the units of its data."""
