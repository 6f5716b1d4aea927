"What teachers are given is made of the lessons as they are: every figure, every exercise, no answer too many."

import json
import os
import re
import shlex
import subprocess
import sys
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from mmccd.classroom import install, pack, pages, sheets, slides
from mmccd.classroom.lessons import Exercise, Picture, caption, lesson_files, read_lesson

COURSE = Path(__file__).resolve().parents[2] / "nbs" / "course"
LESSONS = lesson_files(COURSE)


def png(shade):
    file = BytesIO()
    Image.new("L", (4, 3), shade).save(file, "png")
    return file.getvalue()


def code(source, *outputs):
    cell = {"cell_type": "code", "id": f"c{abs(hash(source))}", "source": source, "metadata": {}}
    return cell | {"outputs": list(outputs), "execution_count": None}


def shows(data):
    picture = {"image/png": b64encode(data).decode(), "text/plain": "<Sheet>"}
    return {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": picture}


def markdown(text):
    return {"cell_type": "markdown", "id": f"m{abs(hash(text))}", "source": text.splitlines(True), "metadata": {}}


@pytest.fixture
def lesson(tmp_path):
    "A small lesson, as a file."
    printed = {"output_type": "stream", "name": "stdout", "text": "seven\n"}
    cells = [
        markdown("# 9. A lesson\n\n> What it says\n\nAn opening."),
        markdown("## One\n\nText.\n\nGuess: how many?"),
        code("print(7)", printed),
        code("f()", shows(png(1))),
        markdown("*One grey *square* of $x^2$.*\n\nMore text. **Guess:** and the next?"),
        code("#| hide\nsecret = 1", shows(png(2))),
        markdown("## Two\n\n**Exercise 1 (warm-up).** Write `f(x)`, see [here](../a.ipynb)."),
        code("# Exercise 1: your code here\ndef f(x): ..."),
        code("# Check 1\nprint('Not yet: f')"),
        markdown("<details><summary>Answer 1</summary>\n\n```python\ndef f(x): return 42\n```\n\n</details>"),
        markdown("## What you can do now\n\n* Count.\n\n## Next\n\nNext: [b](b.ipynb)"),
    ]
    path = tmp_path / "09_small.ipynb"
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def test_lesson_is_taken_apart(lesson):
    found = read_lesson(lesson)
    assert (found.title, found.subtitle, found.goals) == ("9. A lesson", "What it says", "* Count.")
    first, second, exercise = found.parts
    assert first == Picture("One", "", png(1), "One grey *square* of $x^2$.")  # the number had answered the guess
    assert second.guess == "**Guess:** and the next?"
    assert exercise.name == "Exercise 1 (warm-up)"
    assert exercise.question.startswith("Write `f(x)`")
    assert exercise.start.startswith("# Exercise 1")
    assert "return 42" in exercise.answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*A *b* c.*\n\nMore.", "A *b* c."),
        ("*A\nb.* (One patient of ten.)\n\nMore *x*.", "A\nb. (One patient of ten.)"),
        ("**Bold** begins.", ""),
        ("No caption.", ""),
    ],
)
def test_caption(text, expected):
    assert caption([code("f()"), markdown(text)], 0) == expected


def test_not_a_lesson(tmp_path):
    (tmp_path / "x.ipynb").write_text('{"cells": []}')
    with pytest.raises(ValueError, match="does not begin with a title"):
        read_lesson(tmp_path / "x.ipynb")


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_every_figure_and_exercise_of_the_course_is_found(path):
    cells, found = json.loads(path.read_text(encoding="utf-8"))["cells"], read_lesson(path)
    pictures = [o["data"]["image/png"] for c in cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert [p.png for p in found.parts if isinstance(p, Picture)] == [b64decode("".join(p)) for p in pictures]
    assert [e.name.split(" (")[0] for e in found.exercises] == [f"Exercise {n}" for n in (1, 2, 3, 4)]
    assert all(e.start for e in found.exercises)
    assert all(e.answer for e in found.exercises[:3])
    assert found.goals
    without = [p.heading for p in found.parts if isinstance(p, Picture) and not p.caption]
    assert not without, f"pictures without a caption that follows: {without}"


class Seen(HTMLParser):
    "The text, the tags and the addresses of a page; fails where tags do not match."

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.open, self.loads = "", [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k == "src" or (k == "href" and tag != "a")]
        if tag not in ("meta", "img", "br", "hr", "input", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        self.words += data


def test_slides_of_a_lesson(lesson):
    found = read_lesson(lesson)
    made = slides.lesson_slides(found)
    assert [s.title for s in made] == [
        "9. A lesson",
        "One",
        "One",
        "One",
        "Exercise 1 (warm-up)",
        "What you can do now",
    ]
    seen = Seen(slides.html_slides([found], "Slides"))
    assert seen.tags.count("section") == len(made)
    assert [b64decode(s.split(",")[1]) for s in seen.loads] == [png(1), png(2)]
    assert "math" in seen.tags
    assert "return 42" not in seen.words
    file = BytesIO()
    assert slides.pdf_slides([found], "Slides", file) == len(made)
    assert len(re.findall(rb"/Type /Page\b", file.getvalue())) == len(made)
    again = BytesIO()
    slides.pdf_slides([found], "Slides", again)
    assert again.getvalue() == file.getvalue()


def test_title_of_a_slide_is_a_line():
    "A figure before the first heading stands under the lesson's title, whose number begins no list."
    made = slides._section(slides.Slide("6. Who wins in $x^2$?", png=png(1)), 1)
    assert made.startswith("<section><h2>6. Who wins in <")
    assert "<math" in made
    assert "<li>" not in made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A **bold** `name` and *this*.", "A bold name and this."),
        ("a [link](x.md#y) on\ntwo lines", "a link on two lines"),
        ("- one\n  goes on\n- two", "• one goes on\n• two"),
        ("a * b and $x*y*z$", "a * b and $x*y*z$"),
        ("First.\n\nSecond.", "First.\n\nSecond."),
    ],
)
def test_plain(text, expected):
    assert pages.plain(text) == expected


def test_formulas_of_slides_stay_whole():
    lines = slides._wrapped("word " * 12 + r"$\frac{a b c}{d e f}$ and $\nonsense{$", 64)
    assert r"$\frac{a b c}{d e f}$" in lines
    assert r"\nonsense{" in lines
    assert r"$\nonsense" not in lines


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_all_text_of_a_lesson_fits_on_its_slides(path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for number, slide in enumerate(slides.lesson_slides(read_lesson(path)), 1):
        sheet = slides._drawn(slide, number)
        canvas = FigureCanvasAgg(sheet)
        box = sheet.bbox
        for text in sheet.texts:
            extent = text.get_window_extent(canvas.get_renderer())
            assert extent.x0 >= 0, (slide.title, text.get_text())
            assert extent.x1 <= box.width, (slide.title, text.get_text())
            assert extent.y0 >= 0, (slide.title, text.get_text())
            assert extent.y1 <= box.height, (slide.title, text.get_text())


def test_pages_load_nothing(lesson):
    seen = Seen(pages.notebook_page(lesson))
    assert all(s.startswith("data:") for s in seen.loads)
    assert "math" in seen.tags
    assert "secret" not in seen.words
    assert "seven" in seen.words
    assert 'alt="One grey square of $x^2$."' in pages.notebook_page(lesson)
    assert 'href="../a.html"' in pages.notebook_page(lesson)


def test_links_of_pages():
    made = pages.to_html("[a](x.ipynb#part) [b](y.md) [c](https://e.org/z.md) [d](#here)\n\n# My part\n")
    assert re.findall(r'href="([^"]*)"', made) == ["x.html#part", "y.html", "https://e.org/z.md", "#here"]
    assert 'id="my-part"' in made


def test_dead_links_become_text(tmp_path):
    (tmp_path / "there.html").touch()
    text = '<a href="there.html#x">A</a> <a href="gone.html">B</a> <a href="https://e.org">C</a> <a href="#q">D</a>'
    made = pack._without_dead_links(text, tmp_path)
    assert re.findall(r'href="([^"]*)"', made) == ["there.html#x", "https://e.org", "#q"]
    assert "B" in made


def test_sheets(lesson):
    found = [read_lesson(lesson)]
    asked, told = Seen(sheets.exercise_sheets(found)), Seen(sheets.exercise_sheets(found, answered=True))
    assert "def f(x): ..." in asked.words
    assert "42" not in asked.words
    assert "return 42" in told.words
    assert "Name:" not in told.words


def test_quiz(tmp_path):
    path = tmp_path / "quiz.md"
    path.write_text(
        "# Quiz\n\n**Question 1.** 6 × 7?\n\n<details>\n<summary>Answer</summary>\n\n42\n\n</details>\n\nEnd.\n"
    )
    asked, told = Seen(sheets.quiz_sheet(path)), Seen(sheets.quiz_sheet(path, answered=True))
    assert "6 × 7" in asked.words
    assert "End." in asked.words
    assert "42" not in asked.words
    assert "Answer" not in asked.words
    assert "42" in told.words
    assert "details" not in told.tags


def test_open_exercise_has_no_answer():
    made = sheets._exercise(Exercise("Exercise 4 (open)", "Why?"), answered=True)
    assert "No single answer" in made


def test_folder_in_use_is_kept(run, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    code, out, err = run("class-pack", tmp_path, "--no-wheels")
    assert (code, out) == (2, "")
    assert "there is something in" in err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_failure_of_pip_is_one_sentence_and_leaves_nothing(run, tmp_path, monkeypatch):
    def refused(command, **options):
        return subprocess.CompletedProcess(command, 1, "Looking\nERROR: No matching distribution found for torch\n")

    monkeypatch.setattr(pack.subprocess, "run", refused)
    for slow in ("write_pages", "write_teacher", "write_explorer"):
        monkeypatch.setattr(pack, slow, lambda *_: (tmp_path / "ran").touch())
    monkeypatch.setattr(pack, "write_explorer", lambda path: path.parent.mkdir(parents=True))
    code, out, err = run("class-pack", tmp_path / "new" / "pack")
    assert (code, out) == (2, "")
    assert "pip could not get the wheels: No matching distribution found for torch; with a network" in err
    assert not (tmp_path / "new").exists()


def test_without_its_notebooks(monkeypatch, tmp_path):
    monkeypatch.setattr(pack.mmccd, "__file__", str(tmp_path / "mmccd" / "__init__.py"))
    with pytest.raises(ValueError, match="made from a clone of the repository"):
        pack.checkout()


@pytest.mark.parametrize(("version", "said"), [("2.7", "for Python 2.7"), (None, "There are no wheels")])
def test_installer_says_what_it_needs(tmp_path, version, said):
    (tmp_path / "install.py").write_text(Path(install.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    if version:
        (tmp_path / "wheels").mkdir()
        (tmp_path / "wheels" / "python.txt").write_text(version + "\n")
    done = subprocess.run([sys.executable, tmp_path / "install.py"], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "environment").exists()


@pytest.mark.skipif(os.name == "nt", reason="the words of a line are quoted otherwise")
def test_installer_begins_where_links_to_chapters_lead(tmp_path, monkeypatch, capsys):
    here = tmp_path / "a class"
    (here / "wheels").mkdir(parents=True)
    (here / "wheels" / "python.txt").write_text(f"{sys.version_info.major}.{sys.version_info.minor}\n")
    monkeypatch.setattr(install, "HERE", here)
    monkeypatch.setattr(install.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 0))
    monkeypatch.setattr(sys, "argv", ["install.py"])
    assert install.main() == 0
    program, served, lesson = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert Path(program) == here / "environment" / "bin" / "jupyter-lab"
    assert served == f"--notebook-dir={here / 'lessons'}"
    assert Path(lesson) == here / "lessons" / "nbs" / "course" / "01_see_it.ipynb"
