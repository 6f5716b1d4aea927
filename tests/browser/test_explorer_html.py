"""The explorer's own page in a real browser, without any server."""

import pytest
from browser import missing, page
from explorer_toys import toy_subject, untrained

from mmccd.explorer.explorer import Explorer
from mmccd.explorer.page import write_page

pytestmark = pytest.mark.browser
if "playwright" in missing() or "Chromium" in missing():
    pytest.skip(missing(), allow_module_level=True)

SUM = """id => {
  const c = document.querySelector('#panel-' + id + ' canvas');
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return d.reduce((a, v, i) => (a * 31 + v * (i % 997)) | 0, 0)
}"""
"""A number that stands for all pixels of a panel."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    explorer = Explorer(toy_subject(folder), untrained(folder / "run"))
    return write_page(explorer, explorer.first_view(steps=2), folder / "page.html").as_uri()


@pytest.mark.parametrize("width", [1280, 390])
def test_strips_steps_and_thresholds_are_moved(address, width):
    with page(width, 900) as p:
        p.goto(address)
        p.wait_for_selector("body[data-ready=yes]")
        assert p.evaluate("document.documentElement.scrollWidth") <= width
        look = lambda *names: {n: p.evaluate(SUM, n) for n in names}  # noqa: E731
        every = ("x", "hidden", "noisy", "predicted", "back", "error", "map", "found", "twin")
        first, score = look(*every), p.inner_text("#score")
        assert score.startswith("Dice ")
        p.locator("#strip").press("Home")
        assert p.inner_text("#strip-out").startswith("1 of ")
        second = look(*every)
        assert {k for k in every if first[k] != second[k]} >= {"hidden", "predicted", "back", "error", "map"}
        assert (first["x"], first["twin"]) == (second["x"], second["twin"])
        p.locator("#step").press("Home")
        assert look("noisy", "predicted") != {k: second[k] for k in ("noisy", "predicted")}
        assert look("back") == {"back": second["back"]}
        p.locator("#threshold").press("Home")
        lowest = p.inner_text("#score")
        p.locator("#threshold").press("End")
        assert p.inner_text("#score") != lowest
        p.locator("#truth").check()
        assert look("x")["x"] != first["x"]
        p.select_option("#pair", "1")
        assert p.inner_text("#panel-x figcaption") != "x: "
        p.get_by_role("button", name="play the strips").click()
        p.locator("#strip-out").get_by_text("2 of").wait_for()
        p.get_by_role("button", name="stop").click()
        assert all(c.get_attribute("aria-label") for c in p.locator("canvas").all() if c.is_visible())
        assert not p.errors
