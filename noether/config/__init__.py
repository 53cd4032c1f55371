"""Configs: the base of every component's config, and configs derived from a signature or a `kind`. No torch."""
