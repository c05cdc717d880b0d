"""How Sphinx makes a site of these pages; ``nox -s docs`` runs it, and a warning is an error.

The pages are plain Markdown that also reads well without a site. What is in the navigation is said once, in the lists
of ``index.md`` and ``decisions/README.md``; nothing about the product is decided here.
"""

import re

from sphinx.application import Sphinx

project = "nixkube-deploy"
author = "the authors of nixkube-deploy"
extensions = ["myst_parser"]
root_doc = "index"
html_theme = "furo"
html_title = "nixkube-deploy"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
myst_heading_anchors = 3
nitpicky = True
man_pages = [
    ("commands", "nixkube-deploy", "take a fleet of NixOS Kubernetes nodes to what its flake says", author, 1),
    ("inventory", "nixkube-deploy-inventory", "the inventory of nixkube-deploy", author, 5),
]

LISTS = ("index", "decisions/README")


def toctrees(text: str) -> str:
    """A hidden toctree for each heading's list of links to pages."""
    trees = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        heading = section.splitlines()[0].strip()
        pages = re.findall(r"^- \[[^\]]+\]\(([^)#:]+)\.md\)", section, re.MULTILINE)
        if pages:
            caption = [] if heading.startswith("#") else [f":caption: {heading}"]
            trees += ["", "```{toctree}", ":hidden:", *caption, "", *pages, "```"]
    return "\n".join([text, *trees, ""])


def add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Before a page with a list of pages is read."""
    if page in LISTS:
        source[0] = toctrees(source[0])


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", add_navigation)
