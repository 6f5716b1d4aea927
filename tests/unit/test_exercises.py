"""Every exercise says "Not yet" to the unfinished cell and "Correct" to its own answer."""

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import exercises
import pytest
import style
import toy_chapter

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = style.components(ROOT / "nbs")


def test_there_are_chapters():
    assert CHAPTERS, "there is no chapter NN_name.ipynb in nbs/components/"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_exercises(path):
    nb = style.Notebook(path)
    found, names = exercises.find(nb), exercises.namespace(nb)
    assert found, f"{nb.name} has no exercises"
    sentences = [s for e in found for s in exercises.problems(e, names)]
    assert not sentences, "\n" + "\n".join(f"{nb.name}: {s}" for s in sentences)


@pytest.mark.parametrize("path", style.lessons(ROOT / "nbs"), ids=lambda p: p.stem)
def test_exercises_of_a_lesson(path):
    "Those that have a check; the open one has none."
    nb = style.Notebook(path)
    names = exercises.namespace(nb)
    sentences = [s for e in exercises.find(nb) if e.check for s in exercises.problems(e, names)]
    assert not sentences, "\n" + "\n".join(f"{nb.name}: {s}" for s in sentences)


# ---- the check of the checks


def toy(tmp_path, old="", new=""):
    cells = [(kind, source.replace(old, new) if old else source) for kind, source in toy_chapter.chapter()]
    return exercises.find(style.Notebook(toy_chapter.write(tmp_path / "00_toy.ipynb", toy_chapter.notebook(cells))))


def test_a_good_exercise_passes(tmp_path):
    found = toy(tmp_path)
    assert [e.number for e in found] == [1, 2]
    assert [s for e in found for s in exercises.problems(e, {})] == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return 3 * x", "return 4 * x", 'answered, must print one line that starts "Correct"'),
        ("def triple(x): ...", "def triple(x): return 6", 'unfinished, must print one line that starts "Not yet"'),
        ("got = triple(2)", "got = triple(2) + 0", "unfinished, raises TypeError"),
        ("print('Correct", "print('Look:')\nprint('Correct", "must print one line"),
        (": triple(2) should be 6 and is {got}", "", "does not say why"),
    ],
)
def test_a_bad_exercise_fails(tmp_path, old, new, words):
    sentences = [s for e in toy(tmp_path, old, new) for s in exercises.problems(e, {})]
    assert any(words in s for s in sentences), sentences
