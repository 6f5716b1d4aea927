"""The site: where links lead, how cells are shown, that comments of parameters are read, and that faults are found."""

import ast
import importlib.util
import json
import re
from pathlib import Path

import check_site
import docments
import formula_font
import make_site
import pytest

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = make_site.homepage()

SOURCE = """
def pool(
    self,
    errors: Tensor,  # (n 1 h w), one for each mask
    how: str = "mean",  # "mean" as published, # not a mark
    weights: tuple = (
        1.0,  # first
        2.0,
    ),  # of both
    plain=None,
) -> Tensor:  # (1 h w); 0 where no mask lies
    "One map."
    return errors  # in the body
"""
FIELDS = """
@dataclass(frozen=True)
class Config:
    "Settings."

    width: int = 16  # pixels
    names: tuple[str, ...] = ()
    _own: int = 0  # nobody's business
"""
METHOD = "def forward(self, x, mask):  # (b 1 h w) -> the same\n    return x"


# links


@pytest.mark.parametrize(
    ("source", "text", "wanted"),
    [
        ("nbs/course/01_see_it.ipynb", "[a](glossary.md#mri)", "[a](glossary.md#mri)"),
        ("nbs/course/01_see_it.ipynb", "[a](../index.ipynb)", "[a](../index.ipynb)"),
        ("nbs/course/01_see_it.ipynb", "[a](teach/README.md#what-machine)", "[a](teach/index.md#what-machine)"),
        ("nbs/course/teach/README.md", "[a](plan.md), [b](../glossary.md)", "[a](plan.md), [b](../glossary.md)"),
        ("nbs/index.ipynb", "[a](../data/README.md)", "[a](results.md)"),
        ("nbs/index.ipynb", '<a href="../CITATION.cff">', f'<a href="{REPOSITORY}/blob/main/CITATION.cff">'),
        ("nbs/guides/your_scans.ipynb", "[a](../../mmccd/training)", f"[a]({REPOSITORY}/tree/main/mmccd/training)"),
        ("data/README.md", "[`a`](results/real.json)", f"[`a`]({REPOSITORY}/blob/main/data/results/real.json)"),
        ("data/README.md", "[a](../nbs/index.ipynb)", "[a](index.ipynb)"),
        ("CHANGELOG.md", "[a](README.md#try-it)", "[a](index.ipynb#try-it)"),
        ("CHANGELOG.md", "[a](nbs/guides/your_scans.ipynb)", "[a](guides/your_scans.ipynb)"),
    ],
)
def test_links_lead_to_pages_or_to_the_repository(source, text, wanted):
    assert make_site.relink(text, source) == wanted


@pytest.mark.parametrize(
    "text", ["[a](https://x.org/a.md)", "[a](#here)", "`[a](gone.md)`", "```md\n[a](gone.md)\n```"]
)
def test_other_text_stays(text):
    assert make_site.relink(text, "nbs/index.ipynb") == text


def test_a_dead_link_is_named():
    with pytest.raises(FileNotFoundError, match=re.escape("CHANGELOG.md links to gone.md")):
        make_site.relink("[a](gone.md)", "CHANGELOG.md")
    assert make_site.without_dead("[a](gone.md), [b](README.md)", "CHANGELOG.md") == "a, [b](README.md)"


# notebooks


def cell(source, kind="code"):
    raw = {"cell_type": kind, "source": source, "metadata": {"jupyter": {"source_hidden": True}}}
    return raw | ({"outputs": []} if kind == "code" else {})


def test_directives_are_gone_and_hidden_cells_folded():
    raw = {
        "cells": [
            cell("# Title\n\n> Below it\n\nWords.", "markdown"),
            cell("#| default_exp masking"),
            cell("#| export\nimport torch"),
            cell("#| hide\nimport numpy"),
            cell("# Check 2\ncheck()"),
            cell("#| echo: false\nshow()"),
            cell("plain()"),
        ]
    }
    title, *code = make_site.notebook(raw, "nbs/components/11_masking.ipynb")["cells"]
    assert title["source"].startswith("# Title\n\n> Below it\n")
    assert "nbs/components/11_masking.ipynb" in title["source"]
    assert "api/mmccd.masking.rst" in title["source"]
    assert [c["metadata"]["tags"] for c in code] == [
        ["remove-cell"],
        [],
        ["hide-input"],
        ["hide-input"],
        ["remove-input"],
        [],
    ]
    assert code[3]["metadata"]["mystnb"]["code_prompt_show"] == "Check 2"
    assert not any("#|" in c["source"] for c in code)


def test_everything_kept_gets_a_page_that_the_list_names(tmp_path):
    make_site.assemble(tmp_path / "source")
    made = {p.relative_to(tmp_path / "source").as_posix() for p in (tmp_path / "source").rglob("*") if p.is_file()}
    kept = {make_site.place(p.relative_to(ROOT).as_posix()) for p in ROOT.glob("nbs/**/*.ipynb")}
    assert {p for p in kept if ".ipynb_checkpoints" not in p} <= made
    assert {"course/glossary.md", "course/teach/quiz.md", "changelog.md", "results.md", "explorer.md"} <= made
    listed = "".join(c["source"] for c in json.loads((tmp_path / "source/index.ipynb").read_text())["cells"][-1:])
    for page in made - {"index.ipynb"}:
        if not page.startswith(("api/mmccd", "course/teach/")):
            assert re.search(rf"[\n<]{re.escape(page.rsplit('.', 1)[0])}[>\n]", listed), page
    modules = {p.name.removesuffix(".rst") for p in tmp_path.glob("source/api/mmccd.*")}
    public = {p.stem for p in ROOT.glob("mmccd/*.py") if p.stem[0] != "_"} - make_site.MOVED
    assert {f"mmccd.{m}" for m in public} <= modules


# comments of parameters


def test_comments_beside_parameters_are_read():
    found, returned = docments.read(SOURCE)
    assert found["errors"] == "(n 1 h w), one for each mask"
    assert found["how"] == '"mean" as published, # not a mark'
    assert found["weights"] == "of both"
    assert "plain" not in found
    assert returned == "(1 h w); 0 where no mask lies"
    assert docments.read(FIELDS) == ({"width": "pixels"}, "")
    assert docments.read(METHOD) == ({}, "(b 1 h w) -> the same")
    assert docments.read("f = lambda x: x  # not") == ({}, "")


def test_every_parameter_of_an_exported_function_is_documented():
    "The style of the chapters asks for a comment each; none may be lost on the way to the page."
    functions = 0
    for name in make_site.chapters():
        text = (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
        said = docments.comments(text)
        for node in ast.parse(text).body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or not docments.arguments(node):
                continue
            params, _ = docments.of_function(node, said)
            functions += 1
            assert set(params) == {p.arg for p in docments.arguments(node)}, f"{name}.{node.name}"
    assert functions > 150


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as `x_t`, in [-1, 1]", "as ``x_t``, in [-1, 1]"),
        ("2 * width and x_ of |x|", r"2 \* width and x\_ of \|x\|"),
        ("the `mask`s", r"the ``mask``\ s"),
        ("`A` or `B`; the `c`s", r"``A`` or ``B``; the ``c``\ s"),
        ("snake_case stays", "snake_case stays"),
    ],
)
def test_only_backticks_mean_something(text, shown):
    assert docments.markup(text) == shown


def test_what_is_returned_is_no_type():
    lines = [
        "Read.",
        "",
        "Returns:",
        "    The fields of a case: volumes,",
        "    affine.",
        "",
        "Raises:",
        "    ValueError: x",
    ]
    got = docments.returned_fields(lines)
    assert got == ["Read.", "", ":returns: The fields of a case: volumes, affine.", "", "Raises:", "    ValueError: x"]


def test_our_functions_and_properties_are_shown_and_values_are_not():
    from mmccd import tables

    def hidden(name, obj):
        return docments.skip_member(None, "module", name, obj, False, None)

    assert hidden("markdown_table", tables.markdown_table) is None
    assert hidden("shape", property(len)) is None
    assert hidden("_own", tables.markdown_table)
    assert hidden("set", json.dumps)
    assert hidden("WIDTH", 3)


# formulas


def test_letters_that_browsers_know():
    pytest.importorskip("latex2mathml")
    from mmccd.classroom.pages import letter, math

    assert [letter("script", c) for c in "NFe"] == ["𝒩", "ℱ", "ℯ"]
    assert letter("bold", "1") == "𝟏"
    assert "mathvariant" not in math(r"\mathcal N(0, \mathbf{1})")


def test_font_is_left_out_where_nothing_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr(formula_font, "find_spec", lambda name: None)
    assert not formula_font.write_font(tmp_path / "f.woff")


def test_font_has_the_tables_of_formulas(tmp_path):
    if not (importlib.util.find_spec("ziamath") and importlib.util.find_spec("fontTools")):
        pytest.skip("ziamath, which brings the font, is not installed")
    from fontTools.ttLib import TTFont

    assert formula_font.write_font(tmp_path / "f.woff")
    font = TTFont(tmp_path / "f.woff")
    assert "MATH" in font
    assert {ord("α"), 0x1D465, 0x1D4A9, ord("∏")} <= font.getBestCmap().keys()
    assert (tmp_path / "f.woff").stat().st_size < 400_000


# the built pages


def test_faults_of_pages_are_found(tmp_path):
    good = '<h1 id="top">x</h1><a href="b.html#there">b</a><a href="https://x.org">x</a><img src="data:image/png;,">'
    (tmp_path / "a.html").write_text(good)
    (tmp_path / "b.html").write_text('<p id="there"><a href="a.html">a</a><a href="#there">.</a>')
    assert check_site.problems(tmp_path)[0] == []
    assert check_site.report(tmp_path) == 0
    (tmp_path / "b.html").write_text(
        '<a href="gone.html"></a><a href="a.html#gone"></a><script src="https://x.org/a.js"></script>'
        '<img src="gone.png">'
        '<link rel="stylesheet" href="//x.org/a.css"><link rel="canonical" href="https://x.org">'
        '<a href="../out.html"></a>'
    )
    (tmp_path / "s.css").write_text('@import "https://x.org/b.css"; a { background: url(//x.org/c.png) }')
    (tmp_path / "large.html").write_text(" " * (check_site.LARGEST + 1))
    wrong = check_site.problems(tmp_path)[0]
    for words in ("gone.html", "a.html#gone, and there is no such place", "a.js", "gone.png", "a.css", "../out.html"):
        assert any(words in w for w in wrong), words
    for words in ("b.css", "c.png", "large.html has 2.0 MB"):
        assert any(words in w for w in wrong), words
    assert not any("canonical" in w for w in wrong)
