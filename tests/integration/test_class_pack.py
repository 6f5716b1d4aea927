"The folder for a class: every link leads somewhere, nothing is loaded from outside, and it installs without a network."

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from check_site import Page, problems

from mmccd.classroom import pack
from mmccd.classroom.lessons import lesson_files

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # all pages are made; tests/unit/test_classroom.py makes some


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A pack without wheels, and with a stand-in for the explorer, whose page has tests of its own."
    folder = tmp_path_factory.mktemp("class")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "write_explorer", lambda path: path.write_text("<title>explorer</title>"))
        pack.write_pack(folder / "pack", wheels=False)
    assert [p.name for p in folder.iterdir()] == ["pack"]
    return folder / "pack"


def test_links_and_anchors_exist_and_nothing_is_loaded(made):
    wrong, counts = problems(made)
    assert not wrong, "\n".join(wrong)
    assert counts["pages"] > len(list((ROOT / "nbs").rglob("*.ipynb")))
    assert counts["anchors"] > 100


def test_everything_is_reached_from_the_first_page(made):
    seen, next_pages = set(), [made / "START.html"]
    while next_pages:
        page = next_pages.pop()
        seen.add(page)
        for link in Page(page).leads if page.suffix == ".html" else ():
            target = (page.parent / link.partition("#")[0]).resolve()
            if not re.match(r"[a-z]+:|#", link) and target not in seen and target.is_file():
                next_pages.append(target)
    assert {p for p in made.rglob("*.html")} <= seen
    assert made / "teacher" / "slides.pdf" in seen


def test_lessons_are_whole_but_for_their_outputs(made):
    for lesson in lesson_files(ROOT / "nbs" / "course"):
        ours, theirs = (
            json.loads(p.read_text(encoding="utf-8")) for p in (made / "lessons" / lesson.relative_to(ROOT), lesson)
        )
        assert [c["source"] for c in ours["cells"]] == [c["source"] for c in theirs["cells"]]
        assert not any(c.get("outputs") for c in ours["cells"])
        assert any(c.get("outputs") for c in theirs["cells"])
        assert (made / "html" / "course" / f"{lesson.stem}.html").is_file()
    assert (made / "lessons" / "data" / "results" / "comparison.json").is_file()  # which lessons read


def test_students_see_no_answers(made):
    quiz = (made / "teacher" / "quiz.html").read_text(encoding="utf-8")
    answers = re.findall(
        r"<details>\s*<summary>.*?</summary>(.*?)</details>",
        (ROOT / "nbs" / "course" / "teach" / "quiz.md").read_text(encoding="utf-8"),
        re.S,
    )
    assert answers
    assert "<details>" not in quiz
    told = (made / "teacher" / "quiz_with_answers.html").read_text(encoding="utf-8")
    assert told.count("<strong>Answer") == len(answers) > quiz.count("<strong>Answer") == 0


def test_pack_installs_and_teaches_without_a_network(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    subprocess.run([sys.executable, "-m", "mmccd", "class-pack", tmp_path / "pack"], check=True, cwd=ROOT)
    here = tmp_path / "pack"
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "install.py"], cwd=here, env=env | nowhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    program = here / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"
    lesson = here / "lessons" / "nbs" / "course" / "02_what_is_abnormal.ipynb"
    run = [program, "-m", "nbconvert", "--execute", "--to", "notebook", "--output", tmp_path / "done.ipynb", lesson]
    subprocess.run(run, check=True, env=env | nowhere, cwd=lesson.parent)
