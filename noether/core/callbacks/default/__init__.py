"""Callbacks that every run has by default."""
