"""Documented import paths of the base configs of components."""
