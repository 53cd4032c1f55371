"""Sphinx configuration: Markdown pages, the API from docstrings, pictures drawn meanwhile, nothing from the network."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

import mmdr
from docutils import nodes

sys.path.insert(0, str(Path(__file__).parent))
import docstrings

project = "Noether"
author = "The Noether authors"
version = release = installed_version("noether-train")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_default_options["exclude-members"] = "model_config, model_post_init"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
smartquotes_action = "qe"  # two hyphens begin an option
default_role = "code"  # docstrings are Markdown: one backtick is code
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
    """Register the drawing of pictures, and the translation of docstrings."""
    docstrings.import_names()
    app.connect("doctree-read", draw_pictures)
    app.connect("autodoc-process-docstring", docstrings.translate, priority=1)  # before napoleon
    app.connect("autodoc-skip-member", docstrings.hide_field)
    app.connect("autodoc-process-signature", docstrings.shorten)
    return {"parallel_read_safe": True}
