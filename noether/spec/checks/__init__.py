"""Checks between the tables of a spec."""
