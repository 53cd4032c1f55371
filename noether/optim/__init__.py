"""Optimizers built from a spec, parameter groups and schedules."""
