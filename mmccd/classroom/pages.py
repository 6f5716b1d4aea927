"""Markdown and notebooks as HTML pages that need no network: formulas as MathML, pictures inside, links kept alive."""

import html
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmccd.classroom.lessons import caption
from mmccd.extras import require

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from nbconvert import HTMLExporter


STYLE = """
:root { color-scheme: light dark }
body { font: 17px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 0 auto; padding: 1rem 1rem 4rem }
h1, h2, h3 { line-height: 1.25 } img, svg { max-width: 100%; height: auto; background: #fff }
pre { overflow-x: auto; padding: .6rem; font: 14px/1.4 ui-monospace, monospace; background: #8881; border-radius: 4px }
code { font: .92em ui-monospace, monospace } a { color: #0072b2 }
blockquote { margin: 0; color: #666; font-size: 1.1em }
table { border-collapse: collapse; display: block; overflow-x: auto } th, td { padding: .2rem .7rem; text-align: left }
tr { border-bottom: 1px solid #8884 } details { margin: .6rem 0; padding: .2rem .8rem; border-left: 3px solid #8886 }
.write { border: 1px solid #999; height: 9rem; margin: .5rem 0 1.5rem } math { font-size: 1.05em }
@media (prefers-color-scheme: dark) { a { color: #56b4e9 } blockquote { color: #aaa } }
@media print { body { font-size: 12pt; max-width: none; padding: 0 } .sheet + .sheet { break-before: page }
  h2, h3 { break-after: avoid } pre, .write, figure { break-inside: avoid } nav { display: none }
  pre { white-space: pre-wrap; font-size: 8pt } }
"""


LETTERS = {  # first of A to Z, of a to z, of 0 to 9; Unicode has a few letters elsewhere
    "script": (0x1D49C, 0x1D4B6, None),
    "bold": (0x1D400, 0x1D41A, 0x1D7CE),
    "double-struck": (0x1D538, 0x1D552, 0x1D7D8),
}
ELSEWHERE = {
    "script": dict(zip("BEFHILMRego", "ℬℰℱℋℐℒℳℛℯℊℴ")),
    "double-struck": dict(zip("CHNPQRZ", "ℂℍℕℙℚℝℤ")),
}


def letter(kind: str, char: str) -> str:
    """Return the character that is `char` in a script, bold or double-struck hand; itself where there is none."""
    first = LETTERS[kind][0 if char.isupper() else 1 if char.islower() else 2]
    if char in ELSEWHERE.get(kind, {}):
        return ELSEWHERE[kind][char]
    if not (char.isascii() and char.isalnum()) or first is None:
        return char
    return chr(first + ord(char) - ord("A" if char.isupper() else "a" if char.islower() else "0"))


def math(latex: str, options: dict[str, Any] | None = None) -> str:
    """Return a formula as MathML, which browsers draw without help; `options["display_mode"]` sets it apart.

    Browsers leave out the scripts and bold letters that MathML asks for by name, so these become characters.
    """
    from latex2mathml.converter import convert

    found = rf'<(m[ino]) mathvariant="({"|".join(LETTERS)})">([^<&]+)<'
    spelled = lambda m: f"<{m[1]}>{''.join(letter(m[2], c) for c in m[3])}<"  # noqa: E731
    return re.sub(found, spelled, convert(latex, display="block" if (options or {}).get("display_mode") else "inline"))


@cache
def _reader() -> "MarkdownIt":
    """Return the reader of Markdown; MissingExtraError says what is missing."""
    require("a page of a notebook", "markdown_it", "mdit_py_plugins", "latex2mathml")
    from markdown_it import MarkdownIt
    from mdit_py_plugins.anchors import anchors_plugin
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return reader.use(anchors_plugin, max_level=4).use(dollarmath_plugin, renderer=math, double_inline=True)


def to_html(markdown: str) -> str:
    """Return Markdown as HTML, with links to notebooks and to Markdown turned to the pages that are made of them."""
    page = re.compile(r'(<a href="(?!\w+:)[^"#]*)\.(?:ipynb|md)(?=["#])')
    return page.sub(r"\1.html", _reader().render(markdown))


def line_to_html(markdown: str) -> str:
    """Return a line of Markdown, such as a heading, as HTML without a paragraph; "6. Who wins" begins no list."""
    return _reader().renderInline(markdown)


def page(title: str, body: str, style: str = "", script: str = "") -> str:
    """Return a whole page; it loads nothing from anywhere."""
    policy = "default-src 'none'; img-src data: 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style or STYLE}</style>\n</head>\n<body>\n{body}\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def markdown_page(path: Path) -> str:
    """Return the page of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    title = re.search(r"^# (.+)", text, re.M)
    return page(title[1] if title else path.stem, to_html(text))


def plain(markdown: str) -> str:
    """Return Markdown without its marks: links become their text; lists and paragraphs stay on lines of their own."""
    text = re.sub(r"<[^>]+>", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown))
    text = re.sub(r"^```\w*$", "", text, flags=re.M)
    text = re.sub(r"\*\*|`", "", re.sub(r"(?<![\w*])\*(?!\s)([^*]+?)\*(?![\w*])", r"\1", text))
    lines = re.sub(r"(?<!\n)\n(?!\s*(?:\n|[-*|]\s|\d+\.\s|    ))\s*", " ", text)  # a line that goes on
    return re.sub(r"^(\s*)[-*] ", r"\1• ", lines, flags=re.M).strip()


@cache
def _exporter() -> "HTMLExporter":
    """Return nbconvert's exporter, with our reader of Markdown; MissingExtraError says what is missing."""
    require("a page of a notebook", "nbconvert")
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_filter("markdown2html", lambda source, **_: to_html(source))
    return exporter


@cache
def _code_style() -> str:
    """Return the CSS of highlighted code."""
    from pygments.formatters import HtmlFormatter

    light = ".highlight pre { background: #f7f7f7; color: #222 }"  # whatever the page is
    return light + HtmlFormatter(style="default").get_style_defs(".highlight pre")


def notebook_page(path: Path) -> str:
    """Return the page of a notebook with the outputs that it keeps; what its author hid is left out."""
    from nbformat import read

    notebook: Any = read(path, as_version=4)
    hidden = re.compile(r"#\|\s*hide\b")
    notebook.cells = [c for c in notebook.cells if c.cell_type == "markdown" or not hidden.match(c.source)]
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":  # directives are for the machine
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {
                    "alt": plain(caption(notebook.cells, i)) or "a figure without a caption"
                }
    body = _exporter().from_notebook_node(notebook)[0]
    title = re.search(r"^# (.+)", notebook.cells[0].source, re.M)
    return page(title[1] if title else path.stem, body, STYLE + _code_style())


def make_page(path: Path) -> str:
    """Return the page of a notebook or a Markdown file."""
    return notebook_page(path) if path.suffix == ".ipynb" else markdown_page(path)
