"""Documented import paths of counters and clocks."""
