"""Distances and lesions against all pairs, distance transforms and flood fills; empty masks."""

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import distance
from score_strategies import quick, shaped

from mmccd import scoring as S
from mmccd import summary as T

# ---- distances


def surface(mask):
    "By definition: an element of the mask with a neighbour (4 or 6) that is not, or is beyond the array."

    def inside(at):
        return all(0 <= k < n for k, n in zip(at, mask.shape)) and mask[at]

    def beside(at):
        return [
            tuple(k + step * (i == axis) for i, k in enumerate(at)) for axis in range(mask.ndim) for step in (-1, 1)
        ]

    return np.array([at for at in np.ndindex(*mask.shape) if mask[at] and not all(map(inside, beside(at)))])


@quick
@given(shaped(empty=False))
def test_surface_distances_against_all_pairs(case):
    p, t, mm = case
    pairs = distance.cdist(surface(p) * mm, surface(t) * mm)
    a, b = S.surface_distances(p, t, mm)
    np.testing.assert_allclose(a, pairs.min(1))
    np.testing.assert_allclose(b, pairs.min(0))  # in the order of np.argwhere
    assert S.assd(p, t, mm) == pytest.approx((pairs.min(1).sum() + pairs.min(0).sum()) / sum(pairs.shape))
    assert S.masd(p, t, mm) == pytest.approx((pairs.min(1).mean() + pairs.min(0).mean()) / 2)
    assert S.hd95(p, t, mm) == pytest.approx(max(np.quantile(pairs.min(1), 0.95), np.quantile(pairs.min(0), 0.95)))


@quick
@given(shaped(empty=False))
def test_distances_against_distance_transforms(case):
    "The way most libraries go: erode, transform, look up."
    p, t, mm = case
    edge = [m ^ ndimage.binary_erosion(m, ndimage.generate_binary_structure(m.ndim, 1)) for m in (p, t)]
    far = [ndimage.distance_transform_edt(~e, sampling=mm) for e in edge]
    a, b = far[1][edge[0]], far[0][edge[1]]
    assert S.masd(p, t, mm) == pytest.approx(np.mean([a.mean(), b.mean()]))
    assert S.assd(p, t, mm) == pytest.approx(np.hstack([a, b]).mean())
    assert S.hd95(p, t, mm) == pytest.approx(max(np.percentile(a, 95), np.percentile(b, 95)))


@quick
@given(shaped(empty=False))
def test_no_average_exceeds_the_hausdorff_distance(case):
    p, t, mm = case
    a, b = (surface(m) * mm for m in (p, t))
    largest = max(distance.directed_hausdorff(a, b)[0], distance.directed_hausdorff(b, a)[0])
    for f in (S.assd, S.masd, S.hd95):
        assert f(p, t, mm) <= largest + 1e-9
    assert max(d.max() for d in S.surface_distances(p, t, mm)) == pytest.approx(largest)


@quick
@given(shaped(), st.integers(0, 4), st.integers(0, 4))
def test_distance_properties(case, before, after):
    p, t, mm = case
    mm = np.array(mm)
    one_empty = p.any() != t.any()
    same = p.shape == t.shape and np.array_equal(*(ndimage.binary_erosion(m) ^ m for m in (p, t)))
    for f in (S.assd, S.masd, S.hd95):
        d = f(p, t, mm)
        assert f(p, p, mm) == 0
        assert f(t, p, mm) == pytest.approx(d)
        assert d >= 0
        assert f(p, t, 2 * mm) == pytest.approx(2 * d)
        assert f(p.T, t.T, mm[::-1]) == pytest.approx(d)
        assert f(p[::-1], t[::-1], mm) == pytest.approx(d)
        if not one_empty:
            assert f(*(np.pad(m, (before, after)) for m in (p, t)), mm) == pytest.approx(d)  # translation
        if f is not S.hd95:
            assert (d == 0) == same  # 95 % may agree while the rest does not
        if same:
            assert d == 0
        if not one_empty:
            assert d < np.linalg.norm(mm * p.shape)  # the diagonal is worse than anything


def test_distances_by_hand():
    p, t = np.zeros((2, 5, 9), bool)
    p[2, 1] = t[2, 4] = t[2, 7] = True  # 3 away; 3 and 6 away
    assert [d.tolist() for d in S.surface_distances(p, t, (1, 2))] == [[6], [6, 12]]
    assert S.assd(p, t, (1, 2)) == pytest.approx(8)
    assert S.masd(p, t, (1, 2)) == pytest.approx(7.5)
    assert S.hd95(p, t, (1, 2)) == pytest.approx(6 + 0.95 * 6)


def test_only_surfaces_count():
    full = np.zeros((9, 9), bool)
    full[1:8, 1:8] = True
    ring = full.copy()
    ring[2:7, 2:7] = False
    assert S.assd(ring, full) == S.masd(ring, full) == S.hd95(ring, full) == 0
    assert S.dice(ring, full) < 1
    assert len(S.surface_distances(full, full)[0]) == ring.sum()
    assert len(S.surface_distances(np.ones((4, 5)), np.ones((4, 5)))[0]) == 14  # beyond the array is outside


@pytest.mark.parametrize(
    ("shape", "mm"), [((4, 3), 1.0), ((4, 3), (2, 0.5)), ((4, 3, 5), (1, 2, 3.0)), ((4, 3, 1), (1, 2, 3.0))]
)
def test_empty_masks_have_distances(shape, mm):
    none, one, full = np.zeros(shape, bool), np.zeros(shape, bool), np.ones(shape, bool)
    one[1, 2] = True
    kept = [k for k, n in enumerate(shape) if n > 1]
    far = math.sqrt(sum((shape[k] * np.broadcast_to(mm, len(shape))[k]) ** 2 for k in kept))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for f in (S.assd, S.masd, S.hd95):
            assert f(none, none, mm) == 0
            assert f(one, one, mm) == 0
            assert f(full, full, mm) == 0
            for m in (one, full):
                assert f(none, m, mm) == pytest.approx(far)
                assert f(m, none, mm) == pytest.approx(far)
        assert math.isnan(S.lesion_recall(none, none))
        assert math.isnan(S.lesion_recall(one, none))
        assert S.lesion_recall(none, one) == 0
        assert (
            S.false_lesions(none, none),
            S.false_lesions(one, none),
            S.false_lesions(none, one),
            S.false_lesions(one, one),
        ) == (0, 1, 0, 0)
        assert S.components(none)[1] == 0
        got = {
            k: T.score_shapes(*v, full, mm)
            for k, v in dict(both=(none, none), healthy=(one, none), missed=(none, one)).items()
        }
    assert got["both"]["assd"] == 0
    assert got["healthy"]["hd95"] == pytest.approx(far) == got["missed"]["assd"]
    assert [got[k]["lesion_recall"] for k in got] == [None, None, 0]
    assert [got[k]["false_lesions"] for k in got] == [
        0,
        1,
        0,
    ]
    assert all(json.loads(json.dumps(v, allow_nan=False)) == v for v in got.values())


@quick
@given(shaped().filter(lambda c: c[0].ndim == 2), st.integers(0, 2))
def test_a_volume_of_one_slice_is_a_picture(case, axis):
    p, t, mm = case
    thin, size = [np.expand_dims(m, axis) for m in (p, t)], np.insert(mm, axis, 4.0)
    for f in (S.assd, S.masd, S.hd95):
        assert f(*thin, size) == f(p, t, mm)
    assert S.false_lesions(*thin) == S.false_lesions(p, t)
    np.testing.assert_equal(S.lesion_recall(*thin), S.lesion_recall(p, t))


# ---- lesions


def pieces(mask):
    "By definition: grow each piece from a seed through all 8 or 26 neighbours."
    left, out = {tuple(at) for at in np.argwhere(mask)}, []
    while left:
        grow, piece = [left.pop()], []
        while grow:
            piece.append(at := grow.pop())
            near = {n for n in left if max(abs(i - j) for i, j in zip(at, n)) <= 1}
            left -= near
            grow += near
        out.append(piece)
    return out


@quick
@given(shaped(), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_lesions_by_definition(case, least):
    p, t, _ = case
    labels, n = S.components(t)
    theirs, count = ndimage.label(t, ndimage.generate_binary_structure(t.ndim, t.ndim))
    np.testing.assert_array_equal(labels, theirs)
    assert n == count == len(pieces(t))
    found = [np.mean([p[at] for at in piece]) > least for piece in pieces(t)]
    np.testing.assert_equal(S.lesion_recall(p, t, least), np.mean(found) if found else np.nan)
    assert S.false_lesions(p, t) == sum(not any(t[at] for at in piece) for piece in pieces(p))


@quick
@given(shaped(), st.integers(0, 99))
def test_lesion_properties(case, seed):
    p, t, _ = case
    more = p | (np.random.default_rng(seed).random(p.shape) < 0.3)
    if t.any():
        assert S.lesion_recall(more, t) >= S.lesion_recall(p, t)
        assert S.lesion_recall(t, t, 0.99) == 1
        assert S.lesion_recall(p, t, 0.5) <= S.lesion_recall(p, t)
        assert (S.lesion_recall(p, t) == 0) == (not (p & t).any())
    assert S.false_lesions(t, t) == 0
    assert 0 <= S.false_lesions(p, t) <= S.components(p)[1]
    assert S.false_lesions(p, t | p) == 0


def test_corners_touch_and_least_is_more_than():
    assert S.components(np.eye(3))[1] == 1
    assert S.components(np.eye(3)[:, ::2])[1] == 2
    t = np.zeros((3, 8))
    t[1, :4] = 1
    p = np.zeros((3, 8))
    p[1, :2] = 1
    assert (S.lesion_recall(p, t), S.lesion_recall(p, t, 0.49), S.lesion_recall(p, t, 0.5)) == (1, 1, 0)


# ---- bad input: one plain sentence

V = np.ones((3, 3, 3))
BAD = {
    "shapes differ": (lambda: S.assd(V, V[:2]), r"\(3, 3, 3\) and \(2, 3, 3\)"),
    "flat masks": (lambda: S.hd95([1, 0], [0, 1]), "1 axes"),
    "labels in a shape": (lambda: S.masd(2 * V, V), "holds 2"),
    "no spacing": (lambda: S.assd(V, V, 0), "above 0, or 3 of them, but it is 0"),
    "two spacings for three axes": (lambda: S.assd(V, V, (1, 2)), r"but it is \[1.0, 2.0\]"),
    "spacing nan": (lambda: S.hd95(V, V, np.nan), "it is nan"),
    "least": (lambda: S.lesion_recall(V, V, 1), "but it is 1"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_in_one_sentence(what):
    call, words = BAD[what]
    with pytest.raises(ValueError, match=words) as e:
        call()
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 250
