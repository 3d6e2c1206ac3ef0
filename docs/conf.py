"""How the docs become a site: `make docs`."""

import fusiform

project = "fusiform"
author = copyright = "The fusiform authors"
version = release = fusiform.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
# files of the repository that pages point to, which are no pages of the site
suppress_warnings = ["myst.xref_missing", "myst.header"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "fusiform"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_mock_imports = ["fsspec", "duckdb", "faiss", "ray", "onnx", "onnxscript"]


def setup(app):
    # docstrings are plain text, where bars mean an absolute value and no substitution
    def escape(app, what, name, obj, options, lines):
        lines[:] = [line.replace("|", r"\|") for line in lines]

    app.connect("autodoc-process-docstring", escape)
