"The pictures of the row show what their titles say, on scales that belong to the detector."

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from explorer_toys import slices_of, untrained
from PIL import Image, ImageSequence

from mmccd.detector import load_detector, save_detector
from mmccd.explorer.canvas import PALETTE, overlay_colours, pure, shade
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.render import map_scale


def test_scales_belong_to_the_detector(explorer, view):
    def bars(**changes):
        return [t.bar for t in explorer.tiles(replace(view, **changes))]

    assert (
        bars()
        == bars(place=80)
        == bars(seed=4, start=3)
        == bars(threshold=0.1)
        == bars(swept=2)
        == bars(steps=1, step=1)
    )
    error = next(t for t in explorer.tiles(view) if t.title == "error²")
    t, box = explorer.trace(view), explorer.slices.box
    assert np.array_equal(
        error.pixels,
        shade(torch.where(t.mask & t.brain, t.error, 0.0)[0, 0].numpy()[box], 0, 0.5, True),
    )
    assert error.bar[1] == 0.5  # these weights divide the error, so it has a scale of its own
    whole = next(t for t in explorer.tiles(view) if t.title.startswith("map"))
    assert whole.bar[1] == pytest.approx(1.5 * load_detector("mmccd-flair-t1").threshold, rel=0.05)


@pytest.mark.parametrize("h", [0.003, 0.0004, 40.0])
def test_every_threshold_has_a_scale(toy, tmp_path, h):
    d = load_detector(untrained(tmp_path / "run"))
    d.calibration = {"threshold": h}
    e = Explorer(toy, save_detector(d, tmp_path / "run"))
    v = e.first_view(steps=1)
    high = e.tiles(v)[8].bar[1]
    assert v.threshold == h < high <= 1.6 * h
    e.png(v)


@pytest.mark.parametrize(
    "changes",
    [{}, dict(swept=2, by_hand=False, step=1, threshold=0.3), dict(vertical=False, start=20, swept=3, threshold=0.3)],
    ids=["strip", "sweep", "both"],
)
def test_every_picture_shows_what_its_title_says(explorer, view, changes):
    v = replace(view, **changes)
    tiles, t, (x, brain, lesion), box, high = (
        explorer.tiles(v),
        explorer.trace(v, v.shown_mask),
        slices_of(explorer, v),
        explorer.slices.box,
        map_scale(explorer, v),
    )

    def cut(p):
        return np.asarray(p.reshape(64, 64))[box]

    rows, columns = (
        explorer.slices.brain.any(0)[0].any(k).nonzero().flatten() for k in (1, 0)
    )  # the brain of all slices, and a pixel around it
    assert [(s.start, s.stop) for s in box] == [(int(r[0]) - 1, int(r[-1]) + 2) for r in (rows, columns)]
    mask, found = cut(t.mask), cut(explorer.map(v)) > v.threshold
    grey = shade(cut(torch.where(brain, x, -1.0)), -1, 1)
    pixels = {
        "x: FLAIR": grey,
        "mask": overlay_colours(grey, hidden=mask),
        "condition": shade(cut(t.cond), -1, 1),
        "xₜ: noisy T1": shade(cut(t.steps[v.step - 1].x_t), -2, 2),
        "predicted T1": shade(cut(t.steps[v.step - 1].x0), -1, 1),
        "ŷ: T1": shade(cut(t.y), -1, 1),
        "x̄ = g(ŷ)": shade(cut(t.reconstruction), -1, 1),
        "error²": shade(np.where(mask & cut(brain), cut(t.error), 0), 0, 0.5, True),
        f"map, {v.swept} of 4" if v.swept else "map, this strip": shade(cut(explorer.map(v)), 0, high, True),
        "found, truth": overlay_colours(grey, found=found & cut(lesion), wrong=found & ~cut(lesion)),
    }
    assert [tile.title for tile in tiles] == list(pixels)
    for tile in tiles:
        assert np.array_equal(tile.pixels, pixels[tile.title]), tile.title
        truth, rim = (
            tile.title == "found, truth",
            tile.title not in ("x: FLAIR", "mask", "found, truth") and not tile.title.startswith("map"),
        )
        assert len(tile.outlines) == truth + rim
        for line, colour in tile.outlines:
            assert np.array_equal(line, cut(lesion) if truth else mask)
            assert colour == pure("truth" if truth else "hidden")
        ends = {"err": (0, 0.5), "map": (0, high)}.get(tile.title[:3], (-2, 2) if "noisy" in tile.title else (-1, 1))
        assert tile.bar[:2] == ends if tile.bar else tile.note
        assert tile.marks == (((v.threshold, ""), (explorer.threshold(v), "▲")) if tile.title.startswith("map") else ())
    assert (found & cut(lesion)).any() or not v.swept


def test_png_is_the_picture(explorer, view):
    image = explorer.image(view)
    again = Image.open(BytesIO(explorer.png(view)))
    assert again.mode == "P"
    assert np.array_equal(np.array(again), np.array(image))
    assert np.array_equal(np.array(again.convert("RGB")), PALETTE[np.array(image)])


@pytest.mark.parametrize("over", ["strips", "steps"])
def test_gif_moves(explorer, view, over):
    v = replace(view, steps=3, step=2, threshold=0.5)
    frames = [
        (f.info["duration"], f.info.get("loop"), np.array(f.convert("RGB")))
        for f in ImageSequence.Iterator(Image.open(BytesIO(explorer.gif(v, over))))
    ]
    n = len(explorer.masks(v)) if over == "strips" else 3
    assert [d for d, *_ in frames] == [400] * (n - 1) + [1200]
    assert frames[0][1] == 0
    wanted = [replace(v, swept=k, by_hand=False) if over == "strips" else replace(v, step=k) for k in range(1, n + 1)]
    for (*_, got), w in zip(frames, wanted):
        assert np.array_equal(got, PALETTE[np.array(explorer.image(w))])
