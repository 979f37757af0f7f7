"""The documentation as a site: `make docs`. Sphinx reads the Markdown that GitHub shows.

The source folder is the repository, so a relative link means the same in both places. What is
made as the site is built (`generated.py`) stands in for a comment that GitHub hides, and the
navigation is made of the lists in `docs/index.md`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import generated  # noqa: E402 - beside this file

import trex  # noqa: E402 - this repository's

project = "TReX"
author = "the TReX authors"
release = version = trex.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "hw_models/README.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "docs/site", "tests", "trex", "benchmarks"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
highlight_language = "none"
smartquotes = False
# docstrings write `name`
default_role = "literal"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"TReX {release}"
html_static_path = ["static"]
html_css_files = ["trex.css"]
html_extra_path = ["root"]
html_copy_source = False
html_show_sphinx = False

_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_PAGE = re.compile(r"^- \[([^]]+)\]\(([^)#]+)\.md\)", re.MULTILINE)


def navigation(index: str) -> str:
    """A toctree for every section of `index`, of the pages that its list names first."""
    _, *parts = _SECTION.split(index)
    trees, seen = [], set[str]()
    for caption, text in zip(parts[::2], parts[1::2], strict=True):
        pages = {page: title for title, page in _PAGE.findall(text) if page not in seen}
        seen.update(pages)
        if pages:
            lines = "\n".join(f"{title} <{page}>" for page, title in pages.items())
            trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n")
    return "\n".join(trees)


def read_source(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put in what is made as the site is built."""
    source[0] = generated.fill(source[0])
    if page == root_doc:
        source[0] += "\n" + navigation(source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read_source)
