"""The worked examples of MAINTAINING.md run as they stand there, and keep the rules of the real ones."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import exercises
import pytest
import release
import style
from detector_laws import check_detector

from mmccd.registry import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "MAINTAINING.md").read_text(encoding="utf-8")
FILES = {name: text for _, name, text in re.findall(r"^(`{3,})\w+ (\S+)\n(.+?\n)^\1$", PAGE, re.S | re.M)}
CODE = re.findall(r"^```sh\n(.+?)^```", PAGE, re.S | re.M)


@pytest.fixture
def write(tmp_path, monkeypatch):
    "A function that writes files of the page into an empty folder, which is the current one."
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def go(*names):
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(FILES[name], encoding="utf-8")
        return tmp_path

    return go


def test_a_new_detector(write):
    write("mirror.py")
    assert len(FILES["mirror.py"].splitlines()) <= 40
    done = subprocess.run([sys.executable, "mirror.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 case in results, mirror on flair" in done.stdout
    (case,) = json.loads(Path("results/detect.json").read_text())["cases"]
    stored = json.loads(Path("mirror/config.json").read_text())
    assert stored["detector"] == "mirror"
    assert case["threshold"] == stored["calibration"]["threshold"]
    assert Path("results", case["id"]).is_dir()


def test_the_new_detector_keeps_the_laws(write, monkeypatch):
    monkeypatch.setattr("mmccd.registry.METHODS", dict(METHODS))
    folder = write("mirror.py")
    check_detector(import_module("mirror").Mirror(), folder / "mirror")


def test_a_new_lesson(write):
    folder = write("new_lesson.py")
    (folder / "nbs/course").mkdir(parents=True)
    shutil.copy(ROOT / "nbs/course/glossary.md", "nbs/course")
    runpy.run_path("new_lesson.py")
    (path,) = style.lessons("nbs")
    nb = style.Notebook(path)
    assert style.problems(path) == []
    names = exercises.namespace(nb)
    assert [s for e in exercises.find(nb) if e.check for s in exercises.problems(e, names)] == []


def test_a_new_result(write, monkeypatch):
    folder = write("experiments/probes/sides.py", "experiments/recipes/sides.yaml")
    (folder / "data/results").mkdir(parents=True)
    for name in ("experiments", str(folder / "experiments")):
        monkeypatch.syspath_prepend(ROOT / name)
    import run as runner

    for name, place in {"RECIPES": "experiments/recipes", "RESULTS": "data/results"}.items():
        monkeypatch.setattr(runner, name, folder / place)
    for line in CODE[0].splitlines():
        program, script, *words = line.partition("#")[0].split()
        assert (program, script) == ("python", "experiments/run.py")
        assert runner.main([*words, "--work", "work"]) == 0
    made, recipe = json.loads(Path("data/results/sides.json").read_text()), runner.load_recipe("sides")
    assert made["recipe"] == recipe.path
    assert made["kinds"]["healthy"]["mean"] < made["kinds"]["glioma"]["mean"]
    assert all(words in FILES["data/README.md"] for words in (recipe.question, recipe.path, recipe.cost))


def test_a_release(tmp_path):
    version = re.search(r"tools/release.py version (\S+)`", PAGE)[1]
    for name in (*release.PLACES, "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    if not release.UNRELEASED.search((tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")):
        pytest.skip("the changelog has no section to release")
    release.set_version(version, "2027-02-03", tmp_path)
    assert (
        list(release.not_ready(version, (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8"), f"v{version}")) == []
    )


def test_what_the_page_names_is_there():
    named = re.findall(r"`((?:tools|tests|nbs|mmccd|data|experiments|\.github)/[\w./]+\w)`", PAGE)
    assert len(named) > 10
    made = {*FILES, "nbs/components/16_mirror.ipynb", "data/results/sides.json"}
    assert [n for n in named if n not in made and not (ROOT / n).exists()] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"`make ([a-z-]+)", PAGE)) <= set(targets)
