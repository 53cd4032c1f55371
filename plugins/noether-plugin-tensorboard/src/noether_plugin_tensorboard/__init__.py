"""Noether runs in TensorBoard."""
