"The teacher's pages: links and the headings they name exist, every question has its answer, no lesson is left out."

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import style

NBS = Path(__file__).resolve().parents[2] / "nbs"
TEACH = NBS / "course" / "teach"
PAGES, LESSONS = sorted(TEACH.glob("*.md")), style.lessons(NBS)
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)")
QUESTION = re.compile(r"^\*\*Question (\d+) \((\d) points?\)\.\*\* ", re.M)


def headings(path):
    "The headings of a page or notebook, without their number."
    text = style.Notebook(path).prose if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    return [re.sub(r"^\d\. ", "", h) for h in re.findall(r"^#+ (.+)$", re.sub(r"(?s)```.*?```", "", text), re.M)]


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def names_its_place(words, lesson):
    "Is the text of a link 'lesson N', the beginning of the lesson's title, or one of its headings?"
    number, heads = int(lesson.stem[:2]), [h.lower() for h in headings(lesson)]
    if m := re.fullmatch(r"lesson (\d)", words.lower()):
        return int(m[1]) == number
    plain = re.sub(rf"^{number} ", "", words.lower())
    return plain in heads or heads[0].startswith(plain)


def wrong_links(path):
    text = path.read_text(encoding="utf-8")
    cell = style.Cell(0, {"cell_type": "markdown", "source": text})
    yield from style.links_lead_somewhere(SimpleNamespace(path=path, markdown=[cell]))
    for words, target, place in LINK.findall(text):
        to = (path.parent / target).resolve() if target else path
        if place and to.is_file() and place not in map(anchor, headings(to)):
            yield f"links to {target}#{place}, and there is no such heading"
        if to in LESSONS and not names_its_place(words, to):
            yield f"calls a place of {to.stem} {words!r}, which is none of its headings"


def quiz_problems(text):
    parts = re.split(r"^## Lesson (\d)$", text, flags=re.M)[1:]
    asked = {n: QUESTION.findall(t) for n, t in zip(parts[::2], parts[1::2])}
    wanted = {str(n): [str(3 * n - k) for k in (2, 1, 0)] for n in range(1, 7)}
    if {n: [number for number, _ in found] for n, found in asked.items()} != wanted:
        yield f"has the questions {asked}; three a lesson are wanted, numbered 1 to 18"
    if sum(int(points) for found in asked.values() for _, points in found) != 30:
        yield "does not have 30 points in all"
    for number, _, question in zip(*[iter(QUESTION.split(text)[1:])] * 3):
        answers = re.findall(r"<details><summary>Answer</summary>\n\n(.+?)\n\n</details>", question, re.S)
        if len(answers) != 1 or len(answers[0].split()) < 10:
            yield f"question {number} has no answer with a reason"
        if not question.split("<details>")[0].strip() or question.split("</details>")[-1].split("\n##")[0].strip():
            yield f"question {number} does not end with its answer"


def left_out(text, lessons):
    "Lessons that no row of a table links to."
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [p.stem for p in lessons if not any(f"]({Path('..') / p.name})" in row for row in rows)]


def test_the_pages_are_there():
    assert [p.name for p in PAGES] == ["README.md", "notes.md", "plan.md", "quiz.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_links(path):
    assert list(wrong_links(path)) == []


def test_quiz():
    assert list(quiz_problems((TEACH / "quiz.md").read_text(encoding="utf-8"))) == []


def test_no_lesson_is_left_out():
    plan = (TEACH / "plan.md").read_text(encoding="utf-8").split("\n## ")
    half_day, ninety = (next(s for s in plan if s.startswith(title)) for title in ("Half a day", "90 minutes"))
    assert left_out(half_day, LESSONS) == []
    assert left_out(ninety, LESSONS) == ["04_diffusion_in_a_small_room", "07_project"]
    assert left_out((TEACH / "README.md").read_text(encoding="utf-8"), LESSONS) == []
    assert [h[:8] for h in headings(TEACH / "notes.md") if h.startswith("Lesson")] == [
        f"Lesson {n}" for n in range(1, len(LESSONS) + 1)
    ]


@pytest.mark.parametrize("title", ["Half a day", "90 minutes"])
def test_the_minutes_of_a_plan_follow_each_other(title):
    plan = (TEACH / "plan.md").read_text(encoding="utf-8").split("\n## ")
    text = next(s for s in plan if s.startswith(title))
    spans = re.findall(r"^\| \**([\d:]+)–([\d:]+)\** \|", text, re.M)
    assert (spans[0][0], spans[-1][1]) in (("0", "90"), ("0:00", "3:30"))
    assert all(end == start for (_, end), (start, _) in pairwise(spans))


# ---- the tests themselves


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("[x](nowhere.md)", "nowhere.md, which does not exist"),
        ("[x](#nothing)", "no such heading"),
        ("[x](../glossary.md#nothing)", "no such heading"),
        ("[Where was it?](../01_see_it.ipynb)", "none of its headings"),
        ("[lesson 2](../01_see_it.ipynb)", "none of its headings"),
        ("[Where is it?](../01_see_it.ipynb), [lesson 1](../01_see_it.ipynb), [x](../glossary.md#time-step)", ""),
    ],
)
def test_a_wrong_link_is_found(tmp_path, link, words, monkeypatch):
    page = tmp_path / "course" / "teach" / "page.md"
    page.parent.mkdir(parents=True)
    for name in ("01_see_it.ipynb", "glossary.md"):
        (tmp_path / "course" / name).write_bytes((NBS / "course" / name).read_bytes())
    page.write_text(f"# Page\n\n{link}\n")
    monkeypatch.setattr(f"{__name__}.LESSONS", style.lessons(tmp_path))
    found = list(wrong_links(page))
    assert any(words in sentence for sentence in found) if words else found == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("**Question 5 (2 points).**", "**Question 5.**", "numbered 1 to 18"),
        ("## Lesson 3", "## Lesson three", "three a lesson"),
        ("(1 point).**", "(2 points).**", "30 points"),
        ("<summary>Answer</summary>", "<summary>Solution</summary>", "question 1 has no answer"),
        ("</details>\n", "</details>\n\nSee above.\n", "does not end with its answer"),
    ],
)
def test_a_bad_quiz_is_found(old, new, words):
    text = (TEACH / "quiz.md").read_text(encoding="utf-8")
    assert old in text
    assert any(words in sentence for sentence in quiz_problems(text.replace(old, new, 1)))


def test_a_lesson_left_out_is_found():
    text = (TEACH / "README.md").read_text(encoding="utf-8")
    assert left_out(text.replace("03_translate", "04_translate"), LESSONS) == ["03_translate_and_come_back"]
