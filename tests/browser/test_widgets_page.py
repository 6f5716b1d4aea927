"The widgets of the lessons in JupyterLab: keys move them, and what they say agrees with a computation made here."

import re
import time

import nbformat
import numpy as np
import pytest
import torch
from browser import missing, open_notebook, other_pixels, outputs_in_red, page, picture, pixels, server, wait_until

from mmccd.cases.examples import lesion_slice, phantom_slices
from mmccd.detector import load_detector
from mmccd.masking import even_masks
from mmccd.phantom import make_phantom
from mmccd.scanner import RELAXATION, mr_signal
from mmccd.scoring import counts, dice, precision, recall

CELLS = ("from mmccd.widgets import masks, physics, scores\nphysics()", "masks()", "scores()")
NAMES = ("physics", "masks", "scores")
pytestmark = pytest.mark.browser
if missing("lab"):
    pytest.skip(missing("lab"), allow_module_level=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A page with all three widgets; nothing may leave an error in its console."
    place = tmp_path_factory.mktemp("widgets")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, CELLS)), metadata={"kernelspec": kernel})
    nbformat.write(book, place / "demo.ipynb")
    with server("lab", place / "demo.ipynb", place / "root") as url, page(1280, 900) as p:
        open_notebook(p, "lab", url, ".x-scores .x-picture")
        p.set_default_timeout(60_000)
        yield p
        assert p.errors == []


def said(p, name):
    return p.locator(f".x-{name} .x-text [role=status]").inner_text()


def reads(p, name, control):
    return p.locator(f".x-{name} .x-{control} .widget-readout").inner_text()


def press(p, name, control, key):
    "Press a key on a slider; returns once the picture and the sentence are others."
    selector = f".x-{name} .x-picture"
    was, words = pixels(p, selector), said(p, name)
    p.locator(f".x-{name} .x-{control} .noUi-handle").press(key)
    other_pixels(p, selector, was, 60)
    wait_until(lambda: said(p, name) != words, 60, f"another sentence than {words!r}")
    return said(p, name)


def test_they_run(lab):
    assert outputs_in_red(lab) == []
    for name in NAMES:
        assert picture(lab, f".x-{name} .x-picture").std() > 10
        assert len(said(lab, name)) > 80
        lab.locator(f".x-{name} img.x-picture[alt*=sentence]").wait_for()


def test_brightness_is_the_scanners(lab):
    "Another T2 of the swelling: the same brightness in T1 as before, almost, and another one in T2."
    text = press(lab, "physics", "t2", "ArrowLeft")
    t2 = int(reads(lab, "physics", "t2").split()[0])
    assert t2 < 240
    assert lab.locator(".x-physics .x-tissue select").input_value() == "your own numbers"
    tissue, cortex, white = (
        (v[0], v[1], v[2]) for v in ((1800, t2, 0.90), RELAXATION["cortex"][1], RELAXATION["wm"][1])
    )
    wanted = []
    for modality in ("T1", "T2"):
        s = {k: int(reads(lab, "physics", f"{modality.lower()}-{k.lower()}").replace(",", "")) for k in ("TR", "TE")}
        wanted += [mr_signal(*v, **s) / mr_signal(*white, **s) for v in (tissue, cortex)]
    assert text.startswith("Must fail: in T1 this tissue is as bright as grey matter")
    shown = [float(v) for v in re.findall(r"\d\.\d\d", text)]
    assert shown == pytest.approx([*wanted, abs(wanted[2] - wanted[3])], abs=0.006)


def test_masks_are_counted(lab):
    text = press(lab, "masks", "shown", "ArrowRight")
    at, width = int(reads(lab, "masks", "shown")), int(reads(lab, "masks", "width"))
    step = int(lab.locator(".x-masks .x-step select").input_value().split()[0])
    masks = even_masks(64, width, step)
    often = masks.sum(0)
    assert f"Mask {at} of {len(masks)} hides {100 * masks[at - 1].float().mean():.1f} % of the slice" in text
    assert f"Every pixel is hidden {int(often.min())} times" in text
    assert often.min() == often.max()
    text = press(lab, "masks", "width", "Home")
    wait_until(lambda: reads(lab, "masks", "width") == "2", 60, "a width of 2")
    step = int(lab.locator(".x-masks .x-step select").input_value().split()[0])
    n, steps = 2 * len(range(step - 2, 64, step)), int(reads(lab, "masks", "steps"))
    assert f"{n} × ({steps} + 1) = {n * (steps + 1):,} network evaluations" in text
    assert f"155 slices costs {155 * n * (steps + 1):,}." in text


def test_play_goes_from_mask_to_mask(lab):
    lab.locator(".x-masks .x-shown .noUi-handle").press("Home")
    wait_until(lambda: said(lab, "masks").startswith("Mask 1 of"), 60, "the first mask")
    seen = {1}
    lab.locator(".x-masks .x-play button").first.click()
    while max(seen) < 4:
        seen.add(int(re.match(r"Mask (\d+) of", said(lab, "masks"))[1]))
    lab.locator(".x-masks .x-play button").first.click()
    wait_until(
        lambda: said(lab, "masks").startswith(f"Mask {reads(lab, 'masks', 'shown')} of"), 60, "slider and sentence"
    )


def test_scores_are_those_of_scoring(lab):
    text = press(lab, "scores", "threshold", "ArrowLeft")
    at = float(reads(lab, "scores", "threshold"))
    s = lesion_slice(phantom_slices(make_phantom("glioma", 404, 3, range(60, 100, 8), twin=False), 64, ("flair",)))
    with torch.no_grad():
        anomaly = load_detector("cycle-flair-t2").anomaly_map(s["flair"], s["brain"])
    score, truth = anomaly[s["brain"]].numpy(), s["lesion"][s["brain"]].numpy()
    tp, fp, fn = counts(score > at, truth)
    assert f"Above {at:.2f}, in the patient's slice: {tp} of {tp + fn} lesion pixels are found, {fn} missed" in text
    assert f"{fp} healthy pixels are false alarms" in text
    d, p, r = (f(score > at, truth) for f in (dice, precision, recall))
    assert f"Dice {d:.2f}, precision {p:.2f}, recall {r:.2f}" in text
    best = max(dice(score > k / 100, truth) for k in range(61))
    assert f"The best Dice, {best:.2f}" in text
    table = lab.locator(".x-scores .x-numbers table").inner_text()
    assert list(map(int, re.findall(r"\d+", table))) == [tp, fn, fp, truth.size - tp - fp - fn]
    text = press(lab, "scores", "healthy", "PageUp")
    assert "healthy slices: " in text
    assert f"recall {r:.2f}" in text, "healthy slices cost no recall"
    shown = float(re.search(r"precision (\d\.\d\d)", text)[1])
    assert shown < p


def test_tab_reaches_every_control(lab):
    for name in NAMES:
        met, box = set(), lab.locator(f".x-{name}")
        classes = box.evaluate(
            """e => [...e.querySelectorAll('[class*=" x-"]')].filter(c => c.offsetParent && c.querySelector(
               '.noUi-handle, select, button') || c.matches('button')).map(c => c.className)"""
        )
        wanted = set(re.findall(r"(?:^| )x-([a-z0-9-]+)", " ".join(classes)))
        assert len(wanted) >= 4
        box.locator(".noUi-handle, select, button").first.focus()
        for _ in range(len(wanted) + 12):
            now = lab.evaluate("() => document.activeElement.closest('[class*=\" x-\"]')?.className || ''")
            met |= set(re.findall(r"(?:^| )x-([a-z0-9-]+)", now))
            lab.keyboard.press("Tab")
        assert wanted <= met, name


@pytest.mark.parametrize("width", [1280, 900])
def test_nothing_is_cut_off(lab, width):
    lab.set_viewport_size({"width": width, "height": 900})
    time.sleep(0.5)
    for name in NAMES:
        over = lab.locator(f".x-{name}").evaluate(
            """e => { const b = e.getBoundingClientRect();
            return [...e.querySelectorAll('.x-picture, .widget-slider, .widget-dropdown, .widget-html, button')]
              .filter(c => c.offsetParent && c.getBoundingClientRect().right > b.right + 1).map(c => c.className) }"""
        )
        assert over == [], f"{name} at {width}"
        seen = picture(lab, f".x-{name} .x-picture")
        assert np.ptp(seen) > 200
