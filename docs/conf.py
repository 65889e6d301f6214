"""Builds the pages of docs/ and the docstrings of the package into a site: ``make docs``.

The source folder is the repository's root, so that a link from a page to a file or to benchmarks/README.md means the same on
the site and on a code host.
"""

from typing import Any

from edp_lightning import __version__

project = "edp_lightning"
release = __version__
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [
    ".*",
    "build",
    "runs",
    "docs/README.md",  # docs/index.rst includes it
    "docs/_*",
]
templates_path = ["_templates"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]

myst_heading_anchors = 3

autosummary_generate = True
autosummary_ignore_module_all = True  # every class is documented in the file that holds it
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" beside the fields of a NamedTuple would describe each of them twice

html_theme = "furo"
html_title = "edp_lightning"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_site"]  # index.html leads to docs/index.html
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False

linkcheck_timeout = 20
linkcheck_retries = 2


def skip_member(app: Any, what: str, name: str, item: object, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of NamedTuples, which Python documents as aliases and their classes under "Attributes:"."""
    return True if (getattr(item, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Any) -> None:
    """Register the hook above."""
    app.connect("autodoc-skip-member", skip_member)
