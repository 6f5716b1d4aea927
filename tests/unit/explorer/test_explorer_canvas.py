"Drawing: a value has one colour on a fixed scale, and everything stands in its place, whole."

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmccd.explorer import canvas
from mmccd.explorer.canvas import (
    GAP,
    GREYS,
    HEADER,
    HOT,
    NOTE,
    OVERLAYS,
    PALETTE,
    SHADES,
    TITLE,
    Tile,
    draw,
    draw_tile,
    fit_text,
    inner_edge,
    overlay_colours,
    pure,
    shade,
    text_image,
)


@given(
    a=arrays(np.float32, (2, 3), elements=st.floats(-9, 9, width=32)),
    b=arrays(np.float32, (2, 3), elements=st.floats(-9, 9, width=32)),
    hot=st.booleans(),
)
def test_a_value_has_one_colour(a, b, hot):
    one, both = shade(a, -1, 1, hot), shade(np.concatenate([a, b]), -1, 1, hot)
    assert np.array_equal(one, both[:2])
    assert one.min() >= (GREYS if hot else 0)
    assert one.max() < (GREYS + HOT if hot else GREYS)
    assert np.array_equal(one, shade(a.clip(-1, 1), -1, 1, hot))
    order = a.ravel().argsort()
    assert (np.diff(one.ravel()[order].astype(int)) >= 0).all()


def test_the_palette():
    assert PALETTE.shape == (256, 3)
    assert len(PALETTE) >= GREYS + HOT + SHADES * len(OVERLAYS)
    assert np.array_equal(PALETTE[0], [0, 0, 0])
    assert np.array_equal(PALETTE[GREYS - 1], [255] * 3)
    assert all(len(set(c)) == 1 for c in PALETTE[:GREYS].tolist())
    light = PALETTE[GREYS : GREYS + HOT] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()  # heat reads in grey too
    okabe_ito = {"e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7"}
    colours = [bytes(PALETTE[pure(name)].tolist()).hex() for name in OVERLAYS]
    assert set(colours) <= okabe_ito
    assert len(set(colours)) == len(OVERLAYS)


@given(
    grey=arrays(np.uint8, (4, 5), elements=st.integers(0, GREYS - 1)),
    mask=arrays(bool, (4, 5)),
    other=arrays(bool, (4, 5)),
)
def test_paint_lies_on_the_masks_only(grey, mask, other):
    out = overlay_colours(grey, hidden=mask, wrong=other & ~mask)
    assert out.dtype == np.uint8
    assert np.array_equal(out[~(mask | other)], grey[~(mask | other)])
    for name, where in (("hidden", mask), ("wrong", other & ~mask)):
        assert ((out[where] > pure(name) - SHADES) & (out[where] < pure(name))).all()
    order = grey[mask].argsort()
    assert (np.diff(out[mask][order].astype(int)) >= 0).all()  # what lies below shows through


@given(mask=arrays(bool, (7, 8)), n=st.integers(1, 3))
def test_the_edge_is_the_inner_rim(mask, n):
    big = mask.repeat(4, 0).repeat(4, 1)

    def at(r, c):
        return 0 <= r < big.shape[0] and 0 <= c < big.shape[1] and big[r, c]

    wanted = [
        [
            at(r, c) and not (at(r - n, c) and at(r + n, c) and at(r, c - n) and at(r, c + n))
            for c in range(big.shape[1])
        ]
        for r in range(big.shape[0])
    ]
    assert np.array_equal(inner_edge(big, n), wanted)


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("rows", [1, 2])
def test_every_tile_has_its_place(explorer, view, n, rows):
    tiles = (explorer.tiles(replace(view, twin=True)) * 2)[:n]
    image = draw(tiles, rows)
    across = -(-n // rows)
    w, h = image.width // across, image.height // rows
    assert (w * across, h * rows) == image.size
    scale = (w - GAP) / tiles[0].pixels.shape[1]
    assert scale == int(scale)
    assert image.getpalette() == PALETTE.ravel().tolist()
    pixels = np.array(image)

    def fits(k):
        return max(text_image(t.title, k).shape[1] for t in tiles) <= w - GAP // 2

    letters = max(k for k in range(1, TITLE + 1) if fits(k))  # the largest in which all titles fit
    for k in range(across * rows):
        there = pixels[(r := k // across * h) : r + h, (c := k % across * w) : c + w]
        assert np.array_equal(there, draw_tile(tiles[k], int(scale), letters) if k < n else np.full((h, w), GREYS - 1))
    assert n < 3 or abs(draw(tiles, rows, 1600).width - 1600) <= across * tiles[0].pixels.shape[1] / 2


def letters_of(page, tile, n, k):
    "Pixels of the title of the k-th of n tiles side by side."
    here = page[2:, (w := page.shape[1] // n) * k + GAP // 2 : w * (k + 1)]
    for size in range(TITLE, 0, -1):
        ink = text_image(tile.title, size)
        if (
            ink.shape[1] <= here.shape[1]
            and np.array_equal(here[: ink.shape[0], : ink.shape[1]], ink)
            and (here[: HEADER - 2, ink.shape[1] :] == GREYS - 1).all()
        ):
            return size
    return 0


@pytest.mark.parametrize(("rows", "least"), [(1, 17), (2, 20)])
@pytest.mark.parametrize("m", ["FLAIR", "T1CE"])
def test_letters_stay_on_their_tile(explorer, view, rows, least, m):
    "Whole, of one size in a row, and not tiny."
    shape = explorer.tiles(view)[0].pixels.shape
    titles = [
        f"x: {m}",
        "mask",
        "condition",
        f"xₜ: noisy {m}",
        f"predicted {m}",
        f"ŷ: {m}",
        "x̄ = g(ŷ)",
        "error²",
        "map, 128 of 128",
        "found, truth",
        "healthy twin",
    ]
    tiles = [Tile(t, np.zeros(shape, np.uint8), note=("green: above 0.0000123", "truth not known")) for t in titles]
    for n in (8, 10, 11):
        page, across, found = np.array(draw(tiles[:n], rows)), -(-n // rows), set()
        for r in range(rows):
            line = page[(h := page.shape[0] // rows) * r : h * (r + 1)]
            sizes = {
                letters_of(line, tile, across, k)
                for k, tile in enumerate(tiles[across * r : across * (r + 1)][: n - across * r])
            }
            assert len(sizes) == 1, (n, sizes)
            found |= sizes
        w = page.shape[1] // across
        assert len(found) == 1, (n, found)
        assert min(found) >= least
        assert all((page[HEADER:h, w * k - GAP // 2 : w * k] == GREYS - 1).all() for k in range(1, across + 1))


@pytest.mark.parametrize(
    "notes",
    [
        ("green found, red false", "blue artefact, Dice 0.16"),
        ("red: false alarms", "100.00% of the brain"),
        ("green: above 1.11", "truth not known"),
        ("orange: hidden",),
    ],
    ids=lambda n: n[-1],
)
@pytest.mark.parametrize("scale", [4, 5])
def test_notes_stand_whole_and_apart(explorer, view, notes, scale):
    h, w = explorer.tiles(view)[0].pixels.shape
    below = draw_tile(Tile("found", np.zeros((h, w), np.uint8), note=notes), scale)[HEADER + h * scale :]
    dark = (below < GREYS - 1).any(1)
    lines = [fit_text(line, w * scale, NOTE) for line in notes]
    assert (np.diff(np.append(dark, False).astype(int)) == -1).sum() >= len(notes)
    assert not dark[-1]
    assert not dark[0]
    for k, ink in enumerate(lines):
        assert np.array_equal(below[4 + 24 * k : 4 + 24 * k + ink.shape[0], GAP // 2 : GAP // 2 + ink.shape[1]], ink)


def between(low, high, share):
    return low + share * (high - low)


@pytest.mark.parametrize("scale", range(1, 8))
def test_the_ends_of_a_scale_stand_clear(explorer, view, scale):
    "Wherever the triangle and the line of the threshold stand."
    h, w = explorer.tiles(view)[0].pixels.shape

    def drawn(bar, *marks):
        return draw_tile(Tile("map", np.zeros((h, w), np.uint8), (), bar, marks), scale)[HEADER + h * scale :]

    for bar in ((0, 1.67, True), (-2.0, 2.0, False), (0, 188.0, True)):
        low, high, _ = bar
        page, at = partial(drawn, bar), partial(between, low, high)
        plain = page()
        figures, ends = (
            plain < GREYS - 1,
            (text_image(f"{low:g}".replace("-", "−"), NOTE), text_image(f"{high:.3g}", NOTE)),
        )
        figures[:22] = False  # the bar, of 14 pixels
        (top, *_, last), columns = np.flatnonzero(figures.any(1)), np.flatnonzero(figures.any(0))
        assert last < len(plain) - 1
        if scale > 1:  # both whole, beside each other, on the tile
            assert columns[0] >= GAP // 2
            assert columns[-1] < w * scale + GAP // 2
            assert figures.sum() == sum((e < GREYS - 1).sum() for e in ends)
        for share in np.linspace(-0.1, 1.1, 13):
            for marks in (
                ((at(share), "▲"),),
                ((at(share), ""),),
                ((at(0.5), ""), (at(share), "▲")),
                ((at(share), ""), (at(share), "▲")),
            ):
                rows = np.flatnonzero((page(*marks) != plain).any(1))
                assert len(rows)
                assert rows[-1] < top, "a mark reaches down to the figures"
        sign = page((at(0.5), "▲"))[22:] != plain[22:]
        assert sign.sum() == (text_image("▲", 15) < GREYS - 1).sum(), "the triangle is whole, and below the bar"


def test_below_zero_has_a_true_minus(monkeypatch):
    said = []
    monkeypatch.setattr(canvas, "text_image", lambda text, *size: (said.append(text), text_image(text, *size))[1])
    draw_tile(Tile("xₜ", np.zeros((9, 60), np.uint8), (), (-2.0, 2.0, False)), 1)
    assert said == ["xₜ", "−2", "2"]


def test_lines_lie_on_the_picture_and_marks_on_the_bar():
    h, w, scale, value = 12, 30, 6, 0.7
    line = np.zeros((h, w), bool)
    line[3:8, 5:20] = True
    page = draw_tile(
        Tile("x", np.zeros((h, w), np.uint8), ((line, pure("hidden")),), (0, 2, True), ((value, ""), (1.0, "▲"))), scale
    )
    picture, below = (
        page[HEADER : HEADER + h * scale, GAP // 2 : -GAP // 2],
        page[HEADER + h * scale :, GAP // 2 : -GAP // 2],
    )
    assert any(
        np.array_equal(picture == pure("hidden"), inner_edge(line.repeat(scale, 0).repeat(scale, 1), n))
        for n in range(2, scale + 1)
    )
    at = np.flatnonzero((below == pure("found")).any(0))
    assert abs(at.mean() - w * scale * value / 2) < 3
    assert (below[:, at] == pure("found")).sum(0).min() > 14
    bar = below[10, : at[0]]
    assert bar[0] == GREYS
    assert np.array_equal(bar, shade(np.linspace(0, 2, w * scale), 0, 2, True)[: at[0]])
    sign = np.flatnonzero((below[16:] < GREYS // 2).any(0) & (np.abs(np.arange(w * scale) - w * scale / 2) < 20))
    assert abs(sign.mean() - w * scale / 2) < 3
