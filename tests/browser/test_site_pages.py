"The built site in a browser: nothing is asked of a network, search works from a disk, and pages fit a phone."

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import missing, page
from check_site import problems

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
if "playwright" in missing() or "Chromium" in missing():
    pytest.skip(missing(), allow_module_level=True)
if not all(find_spec(m) for m in ("sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml")):
    pytest.skip("not installed: what makes the site (pip install 'mmccd[docs]')", allow_module_level=True)

PAGES = (
    "index.html",
    "course/05_hide_and_imagine.html",
    "course/glossary.html",
    "components/10_diffusion.html",
    "api/mmccd.masking.html",
    "api/mmccd.cases.case.html",
    "explorer.html",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "Built as `make site` does, but for the explorer, whose page has tests of its own."
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, ROOT / "tools/make_site.py", "--no-explorer", "--out", out]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"


def test_links_and_places_exist(site):
    wrong, counts = problems(site)
    assert not wrong
    assert counts["pages"] > 150
    assert counts["anchors"] > 1000


def test_shapes_stand_on_the_page_of_a_module_and_answers_are_folded(site):
    assert "(n 1 h w), one for each mask" in (site / "api/mmccd.masking.html").read_text(encoding="utf-8")
    lesson = (site / "course/05_hide_and_imagine.html").read_text(encoding="utf-8")
    assert lesson.count("<summary>Answer") >= 3
    assert "<details open" not in lesson
    assert "#| " not in lesson


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_and_ask_nothing_of_a_network(site, width):
    with page(width, 844) as p:
        asked = []
        p.on("request", lambda r: asked.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        for name in PAGES:
            p.goto((site / name).as_uri())
            assert p.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert asked == []
        assert not p.errors


def test_search_from_a_disk(site):
    with page(1280, 800) as p:
        p.goto((site / "search.html").as_uri() + "?q=ventricles")
        p.locator("#search-results li a").first.wait_for()
        assert any("glossary" in a.lower() for a in p.locator("#search-results li a").all_inner_texts())
        assert not p.errors
