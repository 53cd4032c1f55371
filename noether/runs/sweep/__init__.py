"""Sweeps: many runs from one spec, in processes of their own."""
