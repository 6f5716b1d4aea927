"""Pictures: one value one colour, nothing lost, whole files only, no global state."""

import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

os.environ.setdefault("MPLBACKEND", "Agg")

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgb

from mmccd import viz

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
masks = shapes.flatmap(lambda s: arrays(bool, s))
two_masks = shapes.flatmap(lambda s: st.tuples(arrays(bool, s), arrays(bool, s)))
quick = settings(max_examples=25, deadline=None)


def png(figure):
    out = BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def pixels_of(data):
    from PIL import Image

    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def pixels(figure):
    return pixels_of(png(figure))  # what is on paper


def rows():
    return [np.random.default_rng(0).uniform(-1, 1, (2, 1, 12, 10)), [np.ones((12, 10)), 3 * np.eye(12, 10)]]


def example(**kw):
    return viz.show_rows(rows(), ["a", "b"], ["x", "y"], [-1, 0], [1, 4], ["gray", "inferno"], ["u", "v"], **kw)


# ---- scales


@quick
@given(st.floats(-10, 10, width=32), st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32))
def test_one_value_one_colour(value, other, more):
    "The colour of a value does not depend on the company it is in."

    def colour(*company):
        drawn = viz.show_image(viz.Sheet().subplots(), np.array([[value, *company]]), -3, 3, "inferno")
        return drawn.to_rgba(drawn.get_array())[0, 0]

    np.testing.assert_array_equal(colour(), colour(other, more))


def test_rows_are_drawn_on_their_own_fixed_scale():
    sheet = example()
    norms = [(im.norm.vmin, im.norm.vmax) for ax in sheet.axes for im in ax.images]
    assert norms == [(-1, 1)] * 2 + [(0, 4)] * 2
    labels = [ax.get_ylabel() for ax in sheet.axes]
    assert "u" in labels
    assert "v" in labels


def test_fixed_scale_on_paper():
    "A flat picture of 1 is as bright beside a 0 as beside a 100."

    def grey(other):
        sheet = viz.show_rows([[np.ones((8, 8)), np.full((8, 8), other)]], vmin=0, vmax=4, colorbar=False)
        p = pixels(sheet)
        return p[p.shape[0] // 2, p.shape[1] // 4]

    np.testing.assert_array_equal(grey(0.0), grey(100.0))
    assert abs(int(grey(0.0)[0]) - 64) <= 1  # a quarter of white


@pytest.mark.parametrize("scale", [(None, 1), (0, None), (1, 1), (2, 1), (float("nan"), 1)])
def test_no_scale_is_refused(scale):
    with pytest.raises(ValueError, match="fixed scale needs vmin < vmax"):
        viz.show_rows([[np.eye(3)]], vmin=scale[0], vmax=scale[1])


@pytest.mark.parametrize(
    ("values", "extend"), [((0, 1), "neither"), ((-2, 0), "min"), ((0, 2), "max"), ((-2, 2), "both")]
)
def test_clipping_is_shown(values, extend):
    sheet = viz.Sheet()
    ax = sheet.subplots()
    drawn = viz.show_image(ax, np.array([values], float), -1, 1)
    assert viz.add_bar(sheet, [drawn], [ax]).extend == extend


# ---- orientation and outlines


def test_patient_left_is_drawn_right():
    "A mark at the patient's left (the first axis of LPS grows to the left) lands in the right half; in front is up."
    volume = np.zeros((20, 24, 3))
    volume[16:18, 4:6, 1] = 1  # left, in front
    p = pixels(viz.show_rows([[volume[:, :, 1].T]], vmin=0, colorbar=False, width=4))[..., 0]
    y, x = np.argwhere((p > 200) & (np.roll(p, 12, 1) < 50))[0]  # white with black beside it: the mark
    dark = np.argwhere(p < 50)
    assert x > dark[:, 1].mean()
    assert y < dark[:, 0].mean()


@quick
@given(masks)
def test_contour_encloses_the_mask(mask):
    "A line exists exactly if there is something to outline, never leaves the picture's rim, and works at the border."
    ax = viz.Sheet().subplots()
    line = viz.contour(ax, mask)
    assert (line is None) == (not mask.any())
    if line is not None:
        path = line.get_paths()[0].vertices
        inside = np.argwhere(mask)[:, ::-1]
        assert (path.min(0) <= inside.min(0)).all()
        assert (path.max(0) >= inside.max(0)).all()
        assert (path.min(0) >= inside.min(0) - 0.51).all()
        assert (path.max(0) <= inside.max(0) + 0.51).all()


# ---- cropping


@quick
@given(masks, st.integers(0, 3))
def test_crop_keeps_all_and_spares_nothing(mask, margin):
    box = viz.crop_to(mask, margin)
    assert mask[box].sum() == mask.sum()
    if mask.any() and margin == 0:
        assert mask[box].any(0)[[0, -1]].all()
        assert mask[box].any(1)[[0, -1]].all()
    assert viz.crop_to(torch.from_numpy(mask)[None, None], margin) == box


def test_crop_to_all_slices_of_a_subject():
    brain = torch.zeros(3, 1, 8, 8)
    brain[0, 0, 2, 2] = brain[2, 0, 5, 4] = 1
    assert viz.crop_to(brain, 0) == (slice(2, 6), slice(2, 5))


# ---- colours on a slice


@quick
@given(two_masks)
def test_compare_is_a_partition(pair):
    pred, truth = pair
    out = viz.compare(np.full(pred.shape, -1.0), pred, truth, alpha=1.0)

    def is_colour(c):
        return np.isclose(out, to_rgb(c), atol=1e-6).all(-1)

    np.testing.assert_array_equal(is_colour(viz.FOUND), pred & truth)
    np.testing.assert_array_equal(is_colour(viz.WRONG), pred & ~truth)
    np.testing.assert_array_equal(is_colour(viz.MISSED), truth & ~pred)
    np.testing.assert_array_equal(is_colour("black"), ~pred & ~truth)


def test_compare_without_truth_has_no_false_alarm():
    pred = np.eye(4, dtype=bool)
    np.testing.assert_array_equal(viz.compare(np.zeros((4, 4)), pred), viz.compare(np.zeros((4, 4)), pred, pred))


@quick
@given(shapes.flatmap(lambda s: st.tuples(*[arrays(np.float32, s, elements=st.floats(-3, 3, width=32))] * 2)))
def test_overlay_touches_only_what_scores(pair):
    image, score = pair
    out, plain = viz.overlay(image, score, 0, 2), viz.overlay(image, np.full_like(image, -1), 0, 2)
    assert out.min() >= 0
    assert out.max() <= 1
    np.testing.assert_array_equal(out[score <= 0], plain[score <= 0])
    np.testing.assert_allclose(plain[..., 0], np.clip((image + 1) / 2, 0, 1), atol=1e-6)
    assert (plain[..., 0] == plain[..., 2]).all()  # grey


def test_overlay_survives_nan():
    assert np.isfinite(viz.overlay(np.zeros((2, 2)), np.full((2, 2), np.nan))).all()


# ---- input


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (np.zeros((2, 4, 5, 5)), r"\(4, 5, 5\)"),
        ([np.zeros(3)], r"\(3,\)"),
        (np.zeros((5, 5)), r"\(5,\)"),
        ([], "no pictures"),
    ],
)
def test_wrong_rows_are_refused(row, words):
    with pytest.raises(ValueError, match=words):
        viz.show_rows([row])


@pytest.mark.parametrize("draw", [viz.overlay, viz.compare])
def test_shapes_must_agree(draw):
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        draw(np.zeros((3, 3)), np.zeros((3, 4)), *([np.zeros((3, 3))] if draw is viz.compare else []))


def test_tensors_and_arrays_alike():
    x = torch.rand(2, 1, 6, 5, requires_grad=True)
    assert png(viz.show_rows([x], vmin=0)) == png(viz.show_rows([[x[0, 0].detach().numpy(), x[1].detach()]], vmin=0))


def test_rows_of_different_length():
    assert len([ax for ax in viz.show_rows([rows()[0], rows()[1][:1]]).axes if ax.images]) >= 3


# ---- no global state, threads, files


def test_drawing_changes_no_global_and_opens_no_window():
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    viz.add_legend(example(sides=True, title="t"))._repr_png_()
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


def test_use_style_is_one_look():
    with matplotlib.rc_context():
        before = png(example())
        viz.use_style()
        assert matplotlib.rcParams["image.cmap"] == "gray"
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][0] == viz.OKABE_ITO["blue"]
        assert png(example()) == before


def test_threads_draw_the_same():
    alone = png(example())
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: png(example()), range(3))) == {alone}


def test_notebook_picture_keeps_the_colours():
    "256 colours are enough: the palette moves no pixel far, and saves bytes."
    small, full = example()._repr_png_(), png(example())
    difference = np.abs(pixels_of(small) - pixels_of(full))
    assert len(small) < len(full)
    assert difference.mean() < 2
    assert difference.max() < 60


def test_panels_have_their_own_scales():
    sheet = viz.show_panels(
        [
            dict(image=np.eye(5), title="a", label="u"),
            dict(image=np.eye(5), vmin=0, vmax=4, cmap="inferno", label="v"),
            dict(image=np.zeros((5, 5, 3))),
        ],
        title="case",
    )
    assert [
        (im.norm.vmin, im.norm.vmax) for ax in sheet.axes for im in ax.images if im.get_array().shape == (5, 5)
    ] == [(-1, 1), (0, 4)]
    png(sheet)  # lay it out
    tops = [round(ax.get_position().y1, 3) for ax in sheet.axes[:3]]
    assert len(set(tops)) == 1  # level


class Broken(viz.Sheet):
    def savefig(self, f, **kw):
        f.write(b"half a pic")
        raise OSError("disk full")


def test_save_png_is_whole_or_not_at_all(tmp_path):
    path = viz.save_png(example(), tmp_path / "a.png")
    whole = path.read_bytes()
    assert whole == viz.save_png(example(), tmp_path / "b.png").read_bytes()
    for target in ("a.png", "new.png"):
        with pytest.raises(OSError, match="disk full"):
            viz.save_png(Broken(), tmp_path / target)
    assert path.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_save_png_into_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        viz.save_png(example(), tmp_path / "none" / "a.png")


@pytest.mark.parametrize("name", ["gray", "inferno"])
def test_maps_get_lighter_all_the_way(name):
    "Luminance (CIE Y) rises: no edge that is not in the data."
    rgb = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    light = np.where(rgb < 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()


def test_truth_is_seen_on_both_maps():
    "The contour's colour or its black rim stands out from every colour of both maps (contrast 3:1, WCAG 1.4.11)."

    def luminance(rgb):
        return np.where(rgb < 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    line = [luminance(np.array(to_rgb(c))) for c in (viz.TRUTH, "black")]
    for name in ("gray", "inferno"):
        under = luminance(matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3])
        contrast = [(np.maximum(under, v) + 0.05) / (np.minimum(under, v) + 0.05) for v in line]
        assert np.max(contrast, 0).min() > 3


# ---- nothing is cut off


def boxes(sheet, texts):
    "Where texts are drawn, in pixels of the sheet: left, bottom, right, top."
    sheet.draw_without_rendering()
    return [t.get_window_extent().extents for t in texts]


def assert_within(sheet, texts):
    w, h = sheet.bbox.size
    for t, (left, bottom, right, top) in zip(texts, boxes(sheet, texts)):
        assert -1 <= left <= right <= w + 1, t
        assert -1 <= bottom <= top <= h + 1, t


@pytest.mark.parametrize("width", [2.2, 2.9, 3.5, 4, 5, 5.4, 7, 9.6])
@pytest.mark.parametrize("truth", [True, False])
def test_the_legend_fits_the_figure(width, truth):
    bare = viz.show_rows([[np.eye(20)] * 2], width=width, colorbar=False)
    panel = viz.show_rows([[np.eye(20)] * 2], width=width, colorbar=False).axes[0]
    panel.figure.draw_without_rendering()
    sheet = viz.add_legend(bare, truth)
    (legend,) = sheet.legends
    assert_within(sheet, legend.get_texts())
    assert len(legend.get_texts()) == (4 if truth else 1)
    assert sheet.axes[0].get_window_extent().height > 0.85 * panel.get_window_extent().height  # it takes no room away


@pytest.mark.parametrize("n", [1, 2, 4])
def test_row_titles_stay_beside_their_rows(n):
    rows, said = [[np.eye(24, 20)] * n] * 2, ["a title that says at length what it is", "incomprehensibilities"]
    sheet = viz.show_rows(rows, [f"{k}" for k in range(n)], said, width=1.4 + 0.9 * n)
    titles = [ax.yaxis.label for ax in sheet.axes if ax.yaxis.label.get_text()]
    assert [t.get_text().replace("\n", " ") for t in titles] == said
    assert_within(sheet, titles)
    (_, bottom, *_), (*_, top) = boxes(sheet, titles)
    assert bottom >= top - 1, "the two row titles run into each other"


@pytest.mark.parametrize(
    "draw",
    [
        lambda t, title: viz.show_rows([[np.eye(24, 20)] * 2], [t, "b"], title=title, width=4),
        lambda t, title: viz.show_panels([dict(image=np.eye(24, 20), title=t)] * 2, title, width=4),
    ],
)
def test_two_lines_of_title_take_nothing_from_the_panels(draw):
    one, two = draw("a", "above"), draw("a\nsecond line", "above\nsecond line")
    for sheet in (one, two):
        sheet.draw_without_rendering()
    heights = [s.axes[0].get_window_extent().height for s in (one, two)]
    assert heights[1] > 0.97 * heights[0]
    assert_within(two, [two.axes[0].title, two._suptitle])
