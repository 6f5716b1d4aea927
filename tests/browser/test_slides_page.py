"The slides in a real browser: keys turn them, and each fits the screen."

from pathlib import Path

import pytest
from browser import missing, page

from mmccd.classroom.lessons import lesson_files, read_lesson
from mmccd.classroom.slides import html_slides

pytestmark = pytest.mark.browser
if "playwright" in missing() or "Chromium" in missing():
    pytest.skip(missing(), allow_module_level=True)

SHOWN = """() => {
  const at = [...document.querySelectorAll('section')].map(s => Math.abs(s.getBoundingClientRect().top));
  return at.indexOf(Math.min(...at))
}"""
TOO_LARGE = """() => [...document.querySelectorAll('section')]
  .filter(s => s.scrollHeight > s.clientHeight + 1 || s.scrollWidth > s.clientWidth + 1)
  .map(s => s.innerText.slice(0, 60))"""


@pytest.mark.parametrize("size", [(1280, 720), (1024, 768)])
def test_slides_fit_and_turn(tmp_path, size):
    course = Path(__file__).resolve().parents[2] / "nbs" / "course"
    path = tmp_path / "slides.html"
    path.write_text(html_slides([read_lesson(p) for p in lesson_files(course)], "Slides"), encoding="utf-8")
    with page(*size) as p:
        p.goto(path.as_uri())
        last = p.locator("section").count() - 1
        seen = [p.evaluate(SHOWN)]
        for key in ("ArrowRight", "PageDown", "ArrowLeft", "End", "ArrowRight", "Home"):
            p.keyboard.press(key)
            p.wait_for_timeout(150)
            seen.append(p.evaluate(SHOWN))
        assert seen == [0, 1, 2, 1, last, last, 0]
        assert p.evaluate(TOO_LARGE) == []
        assert not p.errors
