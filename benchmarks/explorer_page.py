"""From a key press to the changed picture in a real browser; a part of benchmarks/explorer.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from common import ROOT
from explorer_kernel import CELL

sys.path.append(str(ROOT / "tools"))  # the browser is shared with the tests
import browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURE = ".x-picture"
KEYS = {
    "step": "the step that is shown (all is computed)",
    "threshold": "threshold (all is computed)",
    "start": "strip to a position never seen (the networks run)",
}
HOW = (
    "ArrowRight on the focused slider by Playwright; the clock is the page's: from the time stamp of the keydown event "
    "to the first animation frame after a load event of the picture whose decoded pixels differ from those before; "
    "the next press follows when the page has heard nothing for 0.3 s; one press of each slider before is not counted"
)
# before the page's own scripts: what goes over its web sockets, and when
WIRE = """(() => {
  const own = window.WebSocket, log = window.wire = [];
  const note = (what, d) => log.push([what, performance.now(), d.byteLength ?? d.size ?? d.length]);
  window.WebSocket = class extends own {
    constructor(...a) { super(...a); this.addEventListener('message', e => note('got', e.data)) }
    send(d) { note('sent', d); super.send(d) }
  }
})()"""
# a load event alone proves nothing, as every update makes one: decode, wait for the frame, note the time, compare
WATCH = f"""async selector => {{
  const look = {browser.PIXELS}, im = document.querySelector(selector), w = window.seen = {{old: await look(selector)}};
  window.addEventListener('keydown', e => {{ w.key = e.timeStamp }}, {{capture: true, once: true}});
  im.addEventListener('load', async function loaded() {{
    const load = performance.now();
    try {{ await im.decode() }} catch (e) {{ return }}
    const frame = await new Promise(done => requestAnimationFrame(() => done(performance.now())));
    if (w.key === undefined || w.frame || await look(selector) === w.old) return;
    w.load = load; w.frame = frame; im.removeEventListener('load', loaded)
  }})
}}"""
QUIET = "() => !window.wire.length || performance.now() - window.wire.at(-1)[1] > 300"


def summary(values: list[float]) -> dict[str, Any]:
    """Median, 10th and 90th percentile, and the values themselves."""
    low, middle, high = np.percentile(values, (10, 50, 90))
    return {"median": float(middle), "p10": float(low), "p90": float(high), "runs": [float(v) for v in values]}


def press(p: Page, control: str, key: str = "ArrowRight") -> dict[str, Any]:
    """Milliseconds from the key to the changed picture, and of the stages between, None where one was not seen."""
    p.evaluate(WATCH, PICTURE)
    p.locator(control).press(key)
    p.wait_for_function("window.seen.frame", polling=50)
    p.wait_for_function(QUIET, polling=50)
    seen, wire = p.evaluate("[window.seen, window.wire]")

    def after(what: str, since: float, least: int) -> float | None:
        return next((t for w, t, n in wire if w == what and t >= since and n > least), None)

    sent = after("sent", seen["key"], 0)
    got = sent and after("got", sent, 5000)  # the first message large enough to hold a picture
    marks = [seen["key"], sent, got, seen["load"], seen["frame"]]
    names = "page sends", "server and kernel", "page loads", "frame"
    stages = None if None in marks else dict(zip(names, np.diff(marks).tolist()))
    return {"ms": seen["frame"] - seen["key"], "stages": stages}


def presses(p: Page, name: str, n: int) -> dict[str, Any]:
    """So many presses on one slider, each to the right; at its end it goes back first, which is not counted."""
    control, runs = f".x-{name} .noUi-handle", []
    for _ in range(n + 1):
        at = p.locator(control)
        if at.get_attribute("aria-valuenow") == at.get_attribute("aria-valuemax"):
            press(p, control, "Home")
        runs.append(press(p, control))
    stages = [r["stages"] for r in runs[1:] if r["stages"]]
    medians = {k: float(np.median([s[k] for s in stages])) for k in stages[0]} if stages else None
    return summary([r["ms"] for r in runs[1:]]) | {"stages": medians}


def measure_keys(size: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds from a key to the picture, as a person at a browser has them."""
    import nbformat.v4 as nb

    found: dict[str, Any] = {"how": HOW}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nb.new_code_cell(CELL.format(", start=8") + "\npanel")]
    with TemporaryDirectory() as folder:
        notebook = Path(folder) / "explorer.ipynb"
        notebook.write_text(json.dumps(nb.new_notebook(cells=cells, metadata={"kernelspec": kernel})))
        for kind in size["kinds"]:
            with browser.server(kind, notebook) as url, browser.page(1280, 800) as p:
                p.add_init_script(WIRE)
                browser.open_notebook(p, kind, url)
                p.wait_for_function(QUIET)
                found["chromium"] = p.context.browser.version
                found[kind] = {name: presses(p, name, size["presses"]) | {"what": what} for name, what in KEYS.items()}
    return found
