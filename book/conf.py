"""The settings of Sphinx."""

from importlib.resources import files

from book import pages

project = "cilkit"
html_title = "cilkit"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]

html_theme = "furo"  # light and dark, for any width, nothing from outside
html_copy_source = False
html_show_search_summary = False  # a browser does not let one local file read another
html_show_copyright = False
pygments_dark_style = "a11y-high-contrast-dark"  # the theme's own underlines names of modules
highlight_language = "text"  # where none is named
html_css_files = ["style.css"]
# one file that needs no fonts, as browsers load none from a folder beside the page of a local file
MATHJAX = "tex-svg-full.js"
mathjax_path = MATHJAX
html_static_path = ["style.css", str(files("sphinx-mathjax-offline") / "static/mathjax" / MATHJAX)]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"  # bars of progress
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]

add_module_names = False
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "ignore-module-all": True,  # each thing once, in the module where it is written
}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autoclass_content = "both"  # the class, then its __init__
maximum_signature_line_length = 70


def setup(app: object) -> None:
    app.connect("source-read", pages.on_source)
    app.connect("autodoc-process-docstring", pages.on_docstring)
    app.connect("doctree-read", pages.on_doctree)
