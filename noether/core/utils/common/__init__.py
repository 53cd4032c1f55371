"""Documented import path of the stopwatch."""
