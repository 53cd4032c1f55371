"""Describe a run without training it."""
