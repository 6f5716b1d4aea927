"""The notebooks keep the limits of tools/style.py, and each limit can fail."""

from pathlib import Path

import exercises
import pytest
import style
import toy_chapter

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
NOTEBOOKS = [p for p in NOTEBOOKS if ".ipynb_checkpoints" not in p.parts]
CHAPTERS = style.components(ROOT / "nbs")
GUIDES = style.guides(ROOT / "nbs")
LESSONS = style.lessons(ROOT / "nbs")


def name(o):
    return getattr(o, "stem", o)


def test_there_are_chapters():
    assert CHAPTERS, "there is no chapter NN_name.ipynb in nbs/components/"
    assert (ROOT / "nbs/index.ipynb") in NOTEBOOKS, "nbs/index.ipynb is missing"


def test_no_notebook_is_skipped_silently():
    assert not list((ROOT / "nbs").rglob(".notest")), "a file .notest makes nbdev skip notebooks silently"


@pytest.mark.parametrize("rule", style.ANY)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook(path, rule):
    complain(path, style.ANY[rule])


@pytest.mark.parametrize("rule", style.COMPONENT)
@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_chapter(path, rule):
    complain(path, style.COMPONENT[rule])


@pytest.mark.parametrize("rule", style.GUIDE)
@pytest.mark.parametrize("path", GUIDES, ids=name)
def test_guide(path, rule):
    complain(path, style.GUIDE[rule])


@pytest.mark.parametrize("rule", style.LESSON)
@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_lesson(path, rule):
    complain(path, style.LESSON[rule])


def complain(path, rule):
    found = list(rule(style.Notebook(path)))
    assert not found, "\n" + "\n".join(f"{path.stem}: {sentence}" for sentence in found)


# ---- the limits themselves: a good chapter passes, and each way to break it is noticed


def replace(old, new):
    def change(nb):
        for c in nb["cells"]:
            c["source"] = "".join(c["source"]).replace(old, new).splitlines(keepends=True)

    return change


def add(source, kind="code"):
    return lambda nb: nb["cells"].append(
        toy_chapter.notebook([(kind, source)])["cells"][0] | {"id": f"added{len(nb['cells'])}"}
    )


def result(**out):
    return lambda nb: nb["cells"][7]["outputs"].append(out)


def says(text):
    return result(**toy_chapter.output(text))


def widget_state(nb):
    nb["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}


def two_ids(nb):
    nb["cells"][3]["id"] = nb["cells"][2]["id"]


def without(word):
    return lambda nb: nb.update(cells=[c for c in nb["cells"] if word not in "".join(c["source"])])


def skip_exec(nb):
    nb["cells"].insert(
        0, {"cell_type": "raw", "id": "raw", "metadata": {}, "source": ["---\n", "skip_exec: true\n", "---"]}
    )


long_function = '#| export\ndef f():\n    "Long."\n' + "    pass\n" * 39
BROKEN = {
    "function_cell": (add(long_function), "more than 40"),
    "class_cell": (add('#| export\nclass C:\n    "Long."\n' + "    a = 1\n" * 80), "more than 80"),
    "other_cell": (add("x = 1\n" * 21), "more than 20"),
    "exported_constants": (add("#| export\n" + "x = 1\n" * 21), "more than 20"),
    "long_line": (add(f"x = '{'a' * 115}'"), "has 121 columns"),
    "long_module": (
        lambda nb: [add("#| export\n" + f"x{i} = 1\n" * 20)(nb) for i in range(15)],
        "exports 306 lines, more than 300",
    ),
    "reopened_class": (add("#| export\nC.f = 1"), "a class stands in one cell"),
    "few_tests": (without("assert"), "0 of 8 code cells hold a test"),
    "asserts_in_exports_are_no_tests": (replace("assert", "#| export\nassert"), "0 of 14 code cells"),
    "little_prose": (
        lambda nb: [add("assert 1 == 1")(nb) for _ in range(9)],
        "Markdown cells for 23 code cells, fewer than 0.7",
    ),
    "big": (lambda nb: says("x" * 310_000)(nb), "more than 300"),
    "widget_state": (widget_state, "widget state in its metadata"),
    "widget_output": (
        result(output_type="display_data", data={"application/vnd.jupyter.widget-view+json": {}}),
        "widget as its output",
    ),
    "path_in_source": (replace("import math", 'p = "/' + 'home/me/x"'), "path of one machine: /" + "home/me/x"),
    "path_in_output": (says("saved to /" + "tmp/abc/x.nii"), "path of one machine"),
    "stderr": (result(output_type="stream", name="stderr", text="hm"), "stderr"),
    "warning": (says("UserWarning: do not"), "a warning"),
    "progress": (says(" 50%|#####     | 5/10"), "a progress bar"),
    "timing": (says("Wall time: 3 s"), "a timing"),
    "error": (result(output_type="error", ename="E", evalue="", traceback=[]), "ends in an error"),
    "star": (replace("import math", "from math import *"), "imports *"),
    "fastcore": (
        replace("#| export\nimport math", "#| export\nfrom fastcore.basics import store_attr"),
        "needs fastcore.basics",
    ),
    "nbdev": (replace("#| export\nimport math", "#| export\nimport nbdev"), "needs nbdev"),
    "fastcore_test": (add("from fastcore.test import test_eq"), "fastcore.test"),
    "own_minimum": (add("b = (amap - amap.min()) / 3"), "own minimum of amap"),
    "own_minimum_np": (add("b = (s - np.min(s, axis=0)) / 3"), "own minimum of s"),
    "own_maximum": (add("b = error_map / error_map.max()"), "own maximum"),
    "imshow": (add("ax.imshow(amap, vmin=0)"), "imshow without vmin and vmax"),
    "no_title": (replace("# Toy\n", "Toy\n"), "cell 0 must be Markdown"),
    "no_subtitle": (replace("> A chapter", "A chapter"), "cell 0 must be Markdown"),
    "nothing_built": (replace("You will build", "Here is"), "You will build"),
    "other_module": (replace("default_exp toy", "default_exp other"), "`#| default_exp toy`"),
    "no_exercises": (replace("## Exercises", "## More"), 'no section "Exercises"'),
    "no_paper": (replace("## Paper", "## Book"), 'no section "Paper and this notebook"'),
    "no_next": (replace("Next:", "Then:"), "Next link"),
    "one_exercise": (without("riple"), "0 exercises"),
    "answer_not_folded": (replace("<details>", ""), "exercise 1 has no answer"),
    "no_check": (replace("# Check 2", "# Look"), "exercise 2 has no check"),
    "no_docment": (replace(" # any real number", ""), "parameter x of double has no comment"),
    "shared_docment": (replace("x:float, #", "x:float, y=1, #"), "parameter x of double"),
    "no_docstring": (replace('    "Twice `x`."\n', ""), "double has no docstring"),
    "dataclass_field": (add('#| export\n@dataclass\nclass C:\n    "C."\n    a: int = 1'), "parameter a of C"),
    "class": (add("#| export\nclass C:\n    a = 1"), "C has no docstring"),
    "init": (add('#| export\nclass C:\n    "C."\n    def __init__(self, a): self.a = a'), "parameter a of C"),
    "skip_exec": (skip_exec, "skip_exec"),
    "ids": (two_ids, "of an earlier cell"),
    "dead_link": (add("[there](99_nowhere.ipynb)", "markdown"), "links to 99_nowhere.ipynb"),
    "syntax": (add("def f(:"), "is not Python"),
}


def toy(folder, change=lambda nb: None, file="00_toy", room="components"):
    nb = toy_chapter.notebook(toy_chapter.chapter())
    change(nb)
    toy_chapter.write(folder / room / "index.ipynb", toy_chapter.notebook([("markdown", "# Index")]))
    return toy_chapter.write(folder / room / f"{file}.ipynb", nb)


def test_a_good_chapter_passes(tmp_path):
    assert style.problems(toy(tmp_path)) == []


@pytest.mark.parametrize("what", BROKEN)
def test_each_limit_can_fail(tmp_path, what):
    change, words = BROKEN[what]
    found = style.problems(toy(tmp_path, change))
    assert any(words in sentence for sentence in found), found
    assert all(sentence.startswith("00_toy: ") for sentence in found)


def test_sentences_name_the_cell(tmp_path):
    assert style.problems(
        toy(tmp_path, replace("assert double(2) == 4", "from math import *\nassert double(2) == 4"))
    ) == ["00_toy: cell 7 ('from math import *') imports *: name what you import"]


@pytest.mark.parametrize("file", ["toy", "_00_toy"])
def test_odd_names_fail(tmp_path, file):
    assert any("must be called NN_name" in s for s in style.problems(toy(tmp_path, file=file)))


def test_odd_places_fail(tmp_path):
    assert any("neither the index nor" in s for s in style.problems(toy(tmp_path, room="more")))


def test_a_guide_uses_and_does_not_define(tmp_path):
    found = style.problems(toy(tmp_path, file="toy", room="guides"))
    assert any("a guide uses the package" in s for s in found)
    assert any("more than 25" in s for s in found)


BROKEN_LESSON = {
    "no_title": (replace("# 1. Toy", "1. Toy"), "cell 0 must be Markdown"),
    "exports": (add("#| export\ny = 1"), "a guide uses the package"),
    "no_next": (replace("Next:", "Then:"), "Next link"),
    "no_term": (replace("glossary.md#number", "index.ipynb"), "links no term to the glossary"),
    "long": (
        lambda nb: [add("y = 1\n" * 19)(nb) or add("Why.", "markdown")(nb) for _ in range(8)],
        "lines of code to read, more than 150",
    ),
    "long_cell": (add("y = 1\n" * 21), "has 21 lines, more than 20"),
    "little_prose": (lambda nb: [add("y = 1")(nb) for _ in range(9)], "fewer than 0.7"),
    "no_open_one": (without("Exercise 4"), "has the exercises warm-up, equation, break it; wanted"),
    "no_check": (replace("# Check 2", "# Look"), "exercise 2 has no check"),
    "short_answer": (replace("    y = 3 * x\n    return y", "    return 3 * x"), "has 2 lines only"),
}


def toy_lesson(folder, change=lambda nb: None, file="01_toy"):
    nb = toy_chapter.notebook(toy_chapter.lesson())
    change(nb)
    toy_chapter.write(folder / "course" / "index.ipynb", toy_chapter.notebook([("markdown", "# Index")]))
    (folder / "course" / "glossary.md").write_text("### number\n")
    return toy_chapter.write(folder / "course" / f"{file}.ipynb", nb)


def test_a_good_lesson_passes(tmp_path):
    assert style.problems(toy_lesson(tmp_path)) == []
    hidden = "#| hide\n" + "y = 1\n" * 19
    assert style.problems(toy_lesson(tmp_path, lambda nb: [add(hidden)(nb) or add("Why.", "markdown")(nb)] * 8)) == []


@pytest.mark.parametrize("what", BROKEN_LESSON)
def test_each_limit_of_a_lesson_can_fail(tmp_path, what):
    change, words = BROKEN_LESSON[what]
    found = style.problems(toy_lesson(tmp_path, change))
    assert any(words in sentence for sentence in found), found


def test_the_answers_of_a_lesson_are_executed(tmp_path):
    nb = style.Notebook(toy_lesson(tmp_path))
    found, names = exercises.find(nb), exercises.namespace(nb)
    assert "math" in names
    assert [bool(e.check) for e in found] == [True, True, True, False]
    assert [s for e in found if e.check for s in exercises.problems(e, names)] == []


def test_notest_fails(tmp_path):
    path = toy(tmp_path)
    (path.parent / ".notest").touch()
    assert any(".notest" in s for s in style.problems(path))


@pytest.mark.parametrize(
    "source",
    [
        "r = (x - x.min()) / 3  # min-max on purpose: this is what goes wrong",
        "b = amap / amap.sum()",
        "ax.imshow((a - a.min()))  # min-max on purpose: as others do it",
        '#| export\nclass C:\n    "C."\n    def f(self): return 1',
        "b = tissue / tissue.max()",
        "ax.imshow(amap, vmin=0, vmax=4)",
        "ax.imshow(amap, **kw)",
        'u = "see https://example.org/home/tmp"',
        'print("TR 9 s")',
    ],
)
def test_what_is_allowed(tmp_path, source):
    assert style.problems(toy(tmp_path, add(source))) == []


@pytest.mark.parametrize(
    "source",
    [
        'def f(\n    a, # what a is\n    *b, # the rest\n    c=1, # a number\n    **d # more\n): return "x"',
        'def f(\n    # what a is\n    a=(1,\n       2),\n): return "x"',
        'def f(a, b):\n    "F."',
        'def f(a): # what a is\n    "F."',
    ],
)
def test_where_docments_may_stand(tmp_path, source):
    source = "#| export\n" + (source if '"F."' in source else source.replace('return "x"', '\n    "F."\n    return 1'))
    found = style.problems(toy(tmp_path, add(source)))
    assert (len(found) == 2) if "a, b" in source else not found, found
