"""Settings of Sphinx for the documentation site; tools/make_site.py assembles what it reads, and calls it."""

import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
project_copyright = f"2026 onwards, {author}"
release = re.search(r'__version__ = "(.+)"', (ROOT / "mmccd/__init__.py").read_text(encoding="utf-8"))[1]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
default_role = "code"
suppress_warnings = ["myst.header"]  # a glossary's words are headings of the third level, which are easy to link to

# pages
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath", "strikethrough"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

# modules
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!mmccd\.).*"),  # only our own names have pages
    ("py:class", r"mmccd\..*\.(T|State|SomeOptions)"),  # placeholders for a type
]
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_use_ivar = True
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented_params"
python_use_unqualified_type_names = True
maximum_signature_line_length = 90

# looks
html_theme = "sphinx_book_theme"
html_title = f"{project} {release}"
MADE = Path(os.environ["MMCCD_SITE_STATIC"])  # by tools/make_site.py: the explorer, the font of formulas
html_static_path = [str(ROOT / "site/static"), str(MADE)]
html_css_files = ["site.css", *(p.name for p in MADE.glob("formulas.css"))]
html_js_files = ["site.js"]
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None  # the same bytes on every day
html_theme_options = {
    "repository_url": PROJECT["urls"]["Homepage"],
    "use_repository_button": True,
    "use_download_button": False,
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "navigation_with_keys": False,
}


def inline_math(writer, node):
    "A formula as MathML, which browsers draw without help from a network."
    from docutils.nodes import SkipNode

    from mmccd.classroom.pages import math

    writer.body.append(math(node.astext()))
    raise SkipNode


def block_math(writer, node):
    "The same for a formula on a line of its own."
    from docutils.nodes import SkipNode

    from mmccd.classroom.pages import math

    writer.body.append(f'<div class="site-formula">{math(node.astext(), {"display_mode": True})}</div>\n')
    raise SkipNode


def setup(app):
    "What Sphinx has no setting for."
    from docments import add_fields, skip_member

    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("autodoc-process-docstring", add_fields, priority=400)  # before napoleon reads Args and Returns
    app.connect("autodoc-skip-member", skip_member)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
