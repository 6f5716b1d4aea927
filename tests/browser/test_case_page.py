"""The page that `mmccd detect` writes of a case, in a real browser, without any server."""

import pytest
from browser import missing, page
from toy_cases import write_case
from toy_detection import DETECT

from mmccd.cli import main

pytestmark = pytest.mark.browser
if "playwright" in missing() or "Chromium" in missing():
    pytest.skip(missing(), allow_module_level=True)

MARKED = """id => {
  const c = document.getElementById(id), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let n = 0;
  for (let i = 0; i < d.length; i += 4) n += Math.max(d[i], d[i+1], d[i+2]) - Math.min(d[i], d[i+1], d[i+2]) > 20;
  return n
}"""
"""How many pixels of a canvas are coloured."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    case = write_case(folder, "a", ("flair", "t2"))
    assert main([*DETECT, str(case), "--out", str(folder / "out")]) == 0
    return (folder / "out/a/a_report.html").as_uri()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_threshold_is_moved_and_slices_are_scrolled(address, width):
    with page(width, 900) as p:
        p.goto(address)
        p.wait_for_selector("body[data-ready=yes]")
        first, found = p.inner_text("#slice-out"), p.inner_text("#found")
        assert "packaged threshold" in found
        assert p.evaluate("document.documentElement.scrollWidth") <= width
        p.locator("#truth").uncheck()
        assert p.evaluate(MARKED, "scan") == 0
        before = p.evaluate(MARKED, "map")
        assert before > 0
        p.locator("#threshold").press("Home")
        assert p.evaluate(MARKED, "map") > before
        p.locator("#threshold").press("End")
        assert p.evaluate(MARKED, "map") < before
        assert p.inner_text("#found") != found
        p.get_by_role("button", name="packaged threshold").click()
        assert p.evaluate(MARKED, "map") == before
        assert p.inner_text("#found") == found
        p.locator("#slice").press("End")
        assert p.inner_text("#slice-out") != first
        p.locator("h1").click()
        p.keyboard.press("ArrowLeft")
        assert int(p.inner_text("#slice-out")) >= 0
        p.locator("#truth").check()
        assert not p.errors
