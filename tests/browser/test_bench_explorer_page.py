"""The clock of the explorer's bench, on a page made for it: it begins with the key, and waits for changed pixels."""

import browser
import explorer_page
import numpy as np
import pytest

pytestmark = pytest.mark.browser

PAGE = """
<div class="x-step">
  <div class="noUi-handle" tabindex="0" role="slider" aria-valuenow="{now}" aria-valuemax="8">o</div>
</div>
<img class="x-picture">
<script>{{
const paint = colour => new Promise(done => {{
  const c = document.createElement('canvas');
  c.width = c.height = 40;
  const g = c.getContext('2d');
  g.fillStyle = colour;
  g.fillRect(0, 0, 40, 40);
  c.toBlob(b => {{ document.querySelector('img').src = URL.createObjectURL(b); done() }})
}});
const wait = ms => new Promise(done => setTimeout(done, ms));
window.keys = []; window.wire = []; window.paint = paint;
paint('grey');
let n = 0;
document.querySelector('.noUi-handle').addEventListener('keydown', async e => {{
  keys.push(e.key);
  wire.push(['sent', performance.now(), 99], ['got', performance.now() + 1, 500]);
  await wait(60);
  await paint(n ? (n % 2 ? 'red' : 'blue') : 'grey');
  await wait(240);
  wire.push(['got', performance.now(), 9000]);
  await paint((n += 1) % 2 ? 'red' : 'blue')
}})
}}</script>"""


@pytest.fixture
def p():  # of one test: while Playwright runs, asyncio belongs to it
    if lacks := browser.missing("voila"):
        pytest.skip(lacks)
    with browser.page(400, 300) as p:
        yield p


def made(p, now=1):
    p.set_content(PAGE.format(now=now))
    assert browser.other_pixels(p, ".x-picture", None)


def test_the_clock_waits_for_other_pixels(p):
    "A new address with the same pixels comes after 60 ms, another picture after 300: the clock says the latter."
    made(p)
    one = explorer_page.press(p, ".x-step .noUi-handle")
    assert one["ms"] >= 300
    assert sum(one["stages"].values()) == pytest.approx(one["ms"])
    assert one["stages"]["server and kernel"] >= 240
    assert min(one["stages"].values()) >= 0
    assert p.evaluate("keys") == ["ArrowRight"]


def test_the_clock_begins_with_the_key(p):
    "A picture that changes before it is not its doing."
    made(p)
    p.evaluate(explorer_page.WATCH, ".x-picture")
    before = browser.pixels(p, ".x-picture")
    p.evaluate("paint('green')")
    browser.other_pixels(p, ".x-picture", before)
    p.evaluate(
        "new Promise(done => { let n = 10; (function next() { n-- ? requestAnimationFrame(next) : done() })() })"
    )
    assert p.evaluate("[window.seen.key, window.seen.frame]") == [None, None]


def test_presses_go_on_at_the_end_of_the_slider(p):
    "And the first of them is not counted."
    made(p, now=8)
    got = explorer_page.presses(p, "step", 2)
    assert p.evaluate("keys") == ["Home", "ArrowRight"] * 3
    assert len(got["runs"]) == 2
    assert got["median"] == pytest.approx(np.median(got["runs"]))
    assert got["median"] >= 300
