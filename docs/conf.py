"""Sphinx configuration: Markdown pages, no extension that reads from the network."""

from importlib.metadata import version as installed_version

project = "Noether"
author = "The Noether authors"
version = release = installed_version("noether-train")

extensions = ["myst_parser"]
myst_heading_anchors = 3
myst_enable_extensions = ["fieldlist"]

html_theme = "furo"
html_title = f"Noether {release}"
exclude_patterns = ["_build"]
