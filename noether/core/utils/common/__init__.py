"""Measures that know nothing of training."""
