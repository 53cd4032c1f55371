"""Sphinx configuration: Markdown pages, pictures drawn while the site is built, nothing read from the network."""

from importlib.metadata import version as installed_version

import mmdr
from docutils import nodes

project = "Noether"
author = "The Noether authors"
version = release = installed_version("noether-train")

extensions = ["myst_parser"]
myst_heading_anchors = 3
myst_enable_extensions = ["fieldlist"]

html_theme = "furo"
html_title = f"Noether {release}"
exclude_patterns = ["_build"]


def draw_pictures(app, doctree):
    """Replace blocks of mermaid by drawings, so that a page needs no script; code hosts draw the blocks themselves."""
    for number, block in enumerate(list(doctree.findall(nodes.literal_block))):
        if block.get("language") == "mermaid":
            drawing = mmdr.render(block.astext()).svg().replace("merman", f"picture-{number}")  # one id for each
            drawing = drawing.replace("font-size:14px", "font-size:12px")  # so that text in a wide font fits its box
            html = f'<div class="picture" style="background: white; padding: 1em">{drawing}</div>'
            block.replace_self(nodes.raw("", html, format="html"))


def setup(app):
    """Register the drawing of pictures."""
    app.connect("doctree-read", draw_pictures)
    return {"parallel_read_safe": True}
