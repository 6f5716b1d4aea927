"""Post-processing against brute force, SciPy, a k-d tree and a flood fill; anisotropic voxels; bad input."""

import tracemalloc
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial import cKDTree

from mmccd.detector import healthy_threshold
from mmccd.postprocess import PostProcess, drop_small, erode_brain, lower_dropped, median3d, processed_threshold

quick = settings(max_examples=20, deadline=None)
shapes = st.tuples(*[st.integers(1, 6)] * 3)
few = st.sampled_from(np.array([0, 0.25, 0.5, 1, 7], np.float32).tolist())  # few values: many ties
masks = shapes.flatmap(lambda s: arrays(bool, s))
mapped = shapes.flatmap(
    lambda s: st.tuples(arrays(np.float32, s, elements=st.floats(0, 9, width=32) | few), arrays(bool, s))
)
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.2, 3.0])] * 3)


# ---- the median


def brute_median(a, brain, size):
    "By the definition: the lower of the middle values of the brain in the cube."
    out, r = np.zeros_like(a), size // 2
    for at in np.argwhere(brain):
        cube = tuple(slice(max(i - r, 0), i + r + 1) for i in at)
        v = sorted(a[cube][brain[cube]].tolist())
        out[tuple(at)] = v[(len(v) - 1) // 2]
    return out


@quick
@given(mapped, st.sampled_from([1, 3, 5, 7]))
def test_median_by_definition(pair, size):
    a, brain = pair
    got = median3d(a, brain, size)
    assert got.dtype == a.dtype
    assert got.shape == a.shape
    np.testing.assert_array_equal(got, brute_median(a, brain, size))


def blob(seed=0, shape=(26, 24, 20)):
    "A map in a smooth, dented brain that does not fill the volume; some cubes are all brain."
    rng = np.random.default_rng(seed)
    ball = np.linalg.norm([(i - n / 2) / (0.42 * n) for i, n in zip(np.indices(shape), shape)], axis=0)
    return rng.random(shape).astype(np.float32), ball + 0.15 * ndimage.gaussian_filter(rng.normal(size=shape), 1) < 1


def test_median_of_a_whole_brain():
    a, brain = blob()
    whole = ndimage.binary_erosion(brain, np.ones((5, 5, 5)))
    got = median3d(a, brain)
    assert whole.sum() > 500  # both ways of counting take part
    np.testing.assert_array_equal(got[whole], ndimage.median_filter(a, 5)[whole])
    np.testing.assert_array_equal(got, brute_median(a, brain, 5))
    assert not np.array_equal(got[brain], ndimage.median_filter(a * brain, 5)[brain])  # zeros outside would have a say


@pytest.mark.parametrize("slab", [1, 3, 7])
def test_median_slab_by_slab_is_the_same(slab):
    a, brain = blob(1)
    np.testing.assert_array_equal(median3d(a, brain, 5, slab), median3d(a, brain, 5, len(a)))


@pytest.mark.parametrize("spacing", [1.0, (0.5, 1, 2), (3, 1, 1)])
@pytest.mark.parametrize("mm", [0.5, 2, 3.5, 40, 1e9])
def test_erosion_slab_by_slab_is_that_of_the_whole(spacing, mm):
    brain = np.zeros((150, 12, 14), bool)
    brain[3:80, 1:11, 2:13] = True
    brain[90:150, :, :12] = True
    brain[120, 6, 6] = False
    sizes = np.broadcast_to(spacing, 3)
    expected = brain & (ndimage.distance_transform_edt(brain, sampling=sizes) > mm)
    np.testing.assert_array_equal(erode_brain(brain, mm, spacing), expected)


def test_memory_is_a_few_times_that_of_the_map():
    shape = (300, 100, 90)
    at = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    brain = sum((x / 0.9) ** 2 for x in at) < 1
    a = np.where(brain, np.random.default_rng(0).random(shape, np.float32), np.float32(0))
    post = PostProcess(3, 2, 0.005)
    tracemalloc.start()
    m = post.map(a, brain)
    lower_dropped(m, post.segment(m, 0.7), 0.7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * a.nbytes


@quick
@given(
    mapped,
    st.sampled_from([3, 5]),
    st.floats(0, 9, width=32),
    st.sampled_from([np.sqrt, lambda v: 3 * v + 1, lambda v: np.floor(v)]),
)
def test_median_properties(pair, size, h, rising):
    a, brain = pair
    m = median3d(a, brain, size)
    np.testing.assert_array_equal(
        median3d(np.full_like(a, 0.3), brain, size), np.where(brain, np.float32(0.3), 0)
    )  # a constant stays
    np.testing.assert_array_equal(median3d(np.where(brain, a, np.nan), brain, size), m)  # outside has no say
    np.testing.assert_array_equal(
        m > h, brain & (median3d((a > h).astype(np.float32), brain, size) > 0.5)
    )  # a majority vote
    np.testing.assert_array_equal(median3d(rising(a), brain, size)[brain], rising(m)[brain])  # any rising map commutes
    assert (median3d(a + 1, brain, size)[brain] >= m[brain]).all()
    assert not m[~brain].any()
    for axes in ((1, 0, 2), (2, 1, 0)):
        np.testing.assert_array_equal(median3d(a.transpose(axes), brain.transpose(axes), size), m.transpose(axes))
    np.testing.assert_array_equal(median3d(a[::-1], brain[::-1], size), m[::-1])


def test_a_lone_voxel_has_no_say_and_half_a_cube_stays():
    a, brain = np.zeros((11, 11, 11)), np.ones((11, 11, 11), bool)
    a[5, 5, 5] = 9
    assert not median3d(a, brain).any()
    a[:6] = 9
    np.testing.assert_array_equal(
        median3d(a, brain), np.where(np.arange(11)[:, None, None] < 6, 9.0, 0) * brain
    )  # an edge stays where it is


def test_median_of_integers_and_of_nothing():
    a, brain = np.arange(27).reshape(3, 3, 3), np.ones((3, 3, 3), bool)
    np.testing.assert_array_equal(median3d(a, brain, 3), brute_median(a, brain, 3))
    assert not median3d(a, ~brain).any()
    assert median3d(np.zeros((0, 3, 3)), np.zeros((0, 3, 3))).shape == (0, 3, 3)


def test_the_map_is_not_changed_in_place():
    a, brain = blob(2)
    kept, before = a.copy(), brain.copy()
    for post in (PostProcess(5, 2, 0.01), PostProcess(), PostProcess(erode=1)):
        m = post.map(a, brain)
        lower_dropped(m, post.segment(m, 0.5), 0.5)
    np.testing.assert_array_equal(a, kept)
    np.testing.assert_array_equal(brain, before)


# ---- the rim


@quick
@given(masks, st.floats(0, 4), spacings)
def test_erosion_against_a_tree(brain, mm, spacing):
    got = erode_brain(brain, mm, spacing)
    inside, outside = np.argwhere(brain) * spacing, np.argwhere(~brain) * spacing
    if not len(inside) or not len(outside):
        return np.testing.assert_array_equal(got, brain)
    distance = cKDTree(outside).query(inside)[0]
    sure = abs(distance - mm) > 1e-6  # on the line either is right but for rounding
    np.testing.assert_array_equal(got[brain][sure], (distance > mm)[sure])
    assert not got[~brain].any()


def test_erosion_against_scipy():
    brain = blob(3)[1]
    np.testing.assert_array_equal(erode_brain(brain, 1), ndimage.binary_erosion(brain, border_value=1))  # 6 neighbours
    np.testing.assert_array_equal(
        erode_brain(brain, 1.5), ndimage.binary_erosion(brain, ndimage.generate_binary_structure(3, 2), border_value=1)
    )
    np.testing.assert_array_equal(
        erode_brain(brain, 1.8), ndimage.binary_erosion(brain, np.ones((3, 3, 3)), border_value=1)
    )
    np.testing.assert_array_equal(
        erode_brain(brain, 1, (1, 1, 5)),
        ndimage.binary_erosion(brain, ndimage.generate_binary_structure(2, 1)[..., None], border_value=1),
    )


@quick
@given(masks, st.floats(0, 5), st.floats(0, 5), spacings)
def test_erosion_properties(brain, a, b, spacing):
    np.testing.assert_array_equal(erode_brain(brain, 0, spacing), brain)
    less, more = (erode_brain(brain, m, spacing) for m in sorted((a, b)))
    assert (more <= less).all()
    assert (less <= brain).all()
    np.testing.assert_array_equal(erode_brain(brain, 0.9 * min(spacing), spacing), brain)  # no voxel is that near
    twice = erode_brain(brain, 2 * a, [2 * s for s in spacing])
    np.testing.assert_array_equal(twice, erode_brain(brain, a, spacing))  # millimetres, not voxels
    if not brain.all() and a >= max(spacing):
        assert erode_brain(brain, a, spacing).sum() < brain.sum() or not brain.any()


def test_the_end_of_the_volume_is_no_rim_and_a_hole_is():
    full = np.ones((9, 9, 9), bool)
    assert erode_brain(full, 100).all()
    assert erode_brain(full, 100) is not full
    full[4, 4, 4] = False
    assert erode_brain(full, 1).sum() == 9**3 - 7
    slab = blob(4)[1]
    np.testing.assert_array_equal(erode_brain(slab[:, :, 8:12], 1)[:, :, 1:-1], erode_brain(slab, 1)[:, :, 9:11])


# ---- small pieces


def brute_components(mask):
    "Flood fill over 26 neighbours: the pieces, as sets of places."
    left, pieces = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        todo, piece = [left.pop()], set()
        while todo:
            x, y, z = todo.pop()
            piece.add((x, y, z))
            near = {(x + i, y + j, z + k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)} & left
            left -= near
            todo += near
        pieces.append(piece)
    return pieces


@quick
@given(masks, st.integers(0, 12), spacings)
def test_small_pieces_by_flood_fill(mask, n, spacing):
    voxel, wanted = np.prod(spacing) / 1000, np.zeros_like(mask)
    for piece in brute_components(mask):
        if len(piece) >= n:
            wanted[tuple(np.array(list(piece)).T)] = True
    got = drop_small(mask, n * voxel, spacing)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, wanted)  # exactly n voxels are enough
    np.testing.assert_array_equal(drop_small(got, n * voxel, spacing), got)  # twice is once
    np.testing.assert_array_equal(drop_small(mask, 0, spacing), mask)
    assert (drop_small(mask, (n + 1) * voxel, spacing) <= got).all()


@pytest.mark.parametrize("side", [0.7, 0.9, 1.1, 1.2])
def test_a_piece_of_exactly_the_size_stays_whatever_the_rounding(side):
    mask = np.zeros((40, 3, 3), bool)
    for n in range(1, 41):
        mask[:n, 1, 1] = True
        assert drop_small(mask, round(n * side**3 / 1000, 9), side).any()
        assert not drop_small(mask, (n + 0.01) * side**3 / 1000, side).any()


def test_published_pieces_and_corners():
    mask = np.zeros((12, 12, 12), bool)
    mask[0, 0, :7] = mask[5, 5, 5] = mask[6, 6, 6] = mask[8:10, 8:10, 8:10] = True
    kept = drop_small(mask, 0.008)  # up to 7 voxels go
    assert kept.sum() == 8
    assert kept[8, 8, 8]
    assert drop_small(mask, 0.002).sum() == 17  # a corner is enough
    assert not drop_small(mask, 0.0021)[6, 6, 6]
    assert not drop_small(np.zeros((3, 3, 3)), 0.1).any()
    assert not drop_small(mask, 1e9).any()


# ---- together


def test_off_is_nothing_at_all():
    a, brain = blob(5)
    off = PostProcess()
    assert off.map(a, brain) is a
    assert not off
    assert not off.changes_map
    assert str(off) == "nothing"
    np.testing.assert_array_equal(off.segment(a, 0.5), a > 0.5)
    assert PostProcess(1) == PostProcess(0, 0, 0) == off
    assert PostProcess(np.int64(5)) == PostProcess(5)
    with pytest.raises(FrozenInstanceError):
        off.median = 3


@pytest.mark.parametrize(
    ("median", "erode", "smallest"), [(5, 0, 0), (0, 2, 0), (0, 0, 0.01), (3, 1.5, 0.005), (5, 3, 0.1)]
)
def test_the_order(median, erode, smallest):
    a, brain = blob(6)
    a = a * brain
    post, spacing = PostProcess(median, erode, smallest), (1, 1.2, 1.5)
    inner = erode_brain(brain, erode, spacing)
    m = post.map(a, brain, spacing)
    np.testing.assert_array_equal(m, brute_median(a, inner, median or 1))
    assert not m[~inner].any()
    assert m.dtype == a.dtype
    assert post.changes_map == bool(median or erode)
    assert post
    np.testing.assert_array_equal(post.segment(m, 0.55, spacing), drop_small(m > 0.55, smallest, spacing))
    assert all((f"{v:g}" in str(post)) == bool(v) for v in (median, erode, smallest) if v)


def test_the_rim_has_no_say_in_the_median():
    a, brain = blob(7)
    rim = brain & ~erode_brain(brain, 2)
    post = PostProcess(median=5, erode=2)
    np.testing.assert_array_equal(post.map(np.where(rim, 99, a), brain), post.map(a, brain))
    assert not np.array_equal(
        median3d(np.where(rim, 99, a), brain) * ~rim, median3d(a, brain) * ~rim
    )  # in the other order it would


@quick
@given(mapped, st.floats(0, 8), st.sampled_from([np.float32, np.float64]))
@example((np.full((1, 1, 1), 1.6641879, np.float32), np.zeros((1, 1, 1), bool)), 1.664187879695075, np.float32)
def test_a_lowered_map_says_what_the_segmentation_says(pair, h, kind):
    a, keep = pair[0].astype(kind), pair[1]
    marked = keep & (a > h)
    low = lower_dropped(a, marked, h)
    np.testing.assert_array_equal(low.astype(np.float64) > h, marked)
    assert low.dtype == a.dtype
    assert (low <= a).all()
    stays = marked | (
        a.astype(np.float64) <= h
    )  # in double precision: h rounded to single may reach up to a value that lies over h
    np.testing.assert_array_equal(low[stays], a[stays])


# ---- the threshold


def noisy(n, first=0):
    return [blob(i)[0] ** 3 * blob(i)[1] for i in range(first, first + n)], [
        blob(i)[1] for i in range(first, first + n)
    ]


def test_the_threshold_keeps_its_promise_on_maps_that_went_the_same_way():
    maps, brains = noisy(4)
    total, post = sum(b.sum() for b in brains), PostProcess(3, 1)

    def rate(p, h):
        return sum((p.map(a, b) > h).sum() for a, b in zip(maps, brains)) / total

    old, new = processed_threshold(maps, brains, PostProcess(), 0.02), processed_threshold(maps, brains, post, 0.02)
    assert rate(PostProcess(), old) <= 0.02
    assert rate(PostProcess(), old) == pytest.approx(0.02, abs=1 / total)
    assert rate(post, new) <= 0.02
    assert rate(post, new) == pytest.approx(0.02, abs=1 / total)
    assert new < old
    assert rate(post, old) < 0.005
    assert processed_threshold(maps, brains, PostProcess(smallest=1), 0.02) == old  # pieces do not change the map
    alone = torch.from_numpy(np.concatenate([a[b] for a, b in zip(maps, brains)]))
    assert old == healthy_threshold(alone, 0.02)
    thick = processed_threshold(maps, brains, PostProcess(erode=1), 0.02, spacing=(1, 1, 0.4))
    assert thick < processed_threshold(
        maps, brains, PostProcess(erode=1), 0.02
    )  # three slices are within 1 mm instead of one


def test_dropping_pieces_keeps_the_rate_below_the_promise():
    maps, brains = noisy(3, 10)
    post = PostProcess(smallest=0.003)
    h = processed_threshold(maps, brains, post, 0.05)
    assert 0 < sum(post.segment(a, h).sum() for a in maps) < sum((a > h).sum() for a in maps)


# ---- bad input


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(median=4), "odd number of voxels.*got 4"),
        (dict(median=-3), "got -3"),
        (dict(median=17), "1 to 15, got 17"),
        (dict(median=2.5), "got 2.5"),
        (dict(median=True), "got True"),
        (dict(median=False), "got False"),
        (dict(median="5"), "got 5"),
        (dict(erode=-1), "erosion in mm must be a number of 0 or more, got -1"),
        (dict(erode=float("nan")), "got nan"),
        (dict(erode=float("inf")), "got inf"),
        (dict(erode="2"), "got 2"),
        (dict(smallest=-0.1), "smallest piece in ml must be a number of 0 or more, got -0.1"),
        (dict(smallest=True), "got True"),
    ],
)
def test_wrong_settings(wrong, words):
    with pytest.raises(ValueError, match=words):
        PostProcess(**wrong)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a, b: median3d(a, b[1:]), r"of one shape, but they are \(4, 4, 4\) and \(3, 4, 4\)"),
        (lambda a, b: median3d(a[0], b[0]), r"volumes \(x y z\)"),
        (lambda a, b: median3d(a, b, 4), "got 4"),
        (lambda a, b: median3d(a * np.nan, b), "NaN or infinity"),
        (lambda a, b: median3d(a + np.inf, b), "NaN or infinity"),
        (lambda a, b: erode_brain(b[0], 1), r"its shape is \(4, 4\)"),
        (lambda a, b: erode_brain(b, -1), "got -1"),
        (lambda a, b: erode_brain(b, 1, 0), "spacing must be a number of mm above 0, or three, got 0"),
        (lambda a, b: erode_brain(b, 1, (1, 2)), "or three"),
        (lambda a, b: erode_brain(b, 1, (1, 1, np.nan)), "or three"),
        (lambda a, b: drop_small(b[0], 1), r"shape is \(4, 4\)"),
        (lambda a, b: drop_small(b * 4, 1), "must hold 0 and 1 only, but it holds 4"),
        (lambda a, b: drop_small(b, -1), "got -1"),
        (lambda a, b: PostProcess(erode=9).map(a, b), "an erosion of 9 mm leaves nothing of this brain"),
        (lambda a, b: PostProcess(erode=1).map(a, b[1:]), "of one shape"),
        (lambda a, b: processed_threshold([], [], PostProcess()), "got 0 and 0"),
        (lambda a, b: processed_threshold([a], [b, b], PostProcess()), "got 1 and 2"),
        (lambda a, b: processed_threshold([a], [b], PostProcess(), 0), "must lie between 0 and 1, got 0"),
        (lambda a, b: processed_threshold([a], [~b & False], PostProcess()), "no healthy brain pixel"),
    ],
)
def test_bad_input(call, words):
    a, brain = np.ones((4, 4, 4)), np.ones((4, 4, 4), bool)
    brain[0, 0, 0] = False
    with pytest.raises(ValueError, match=words) as e:
        call(a, brain)
    assert "\n" not in str(e.value)


def test_an_empty_brain_is_no_error():
    a, none = np.ones((4, 4, 4)), np.zeros((4, 4, 4), bool)
    assert not PostProcess(5, 3, 1).map(a, none).any()
    assert not erode_brain(none, 3).any()
