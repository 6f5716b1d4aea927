"The published protocol from its own numbers, and each of its quirks alone."

import itertools
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from toy_maps import others, slices

from mmccd import protocols as P
from mmccd import scoring as S
from mmccd import summary
from mmccd.detector import healthy_threshold
from mmccd.masking import even_masks, published_masks
from mmccd.protocols import CLEAN, PAPER, Quirks, paper_scores

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
NAMES = [f.name for f in fields(Quirks)]
some = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31 - 1)


@pytest.fixture(scope="module")
def test():
    return slices()


@pytest.fixture(scope="module")
def healthy():
    return others()


def alone(**on):
    return Quirks(**on)


def without(*off):
    return replace(PAPER, **dict.fromkeys(off, False))


# ---- the published numbers
@pytest.fixture(scope="module", params=["paper_protocol", "paper_protocol_edges"])
def golden(request):
    path = GOLDEN / f"{request.param}.npz"
    if not path.exists():
        pytest.skip(f"the published implementation's numbers are not at hand (../shared/golden/{path.name})")
    with np.load(path) as g:
        found = {k.removeprefix("agg_"): g[k] for k in g.files if k.startswith("agg_")}
    return {k: v.squeeze(-3) if v.ndim >= 4 else v for k, v in found.items()} | {"edges": "edges" in request.param}


def agrees(got, g):
    close = dict(rtol=1e-5, atol=1e-5)
    for k in ("assd", "sensitivity", "precision", "jaccard", "auc"):
        np.testing.assert_allclose(got[k], g[k], **close, err_msg=k)
    np.testing.assert_allclose(got["dice_curve"], g["dice_curve"], **close)
    np.testing.assert_allclose(got["threshold"], g["best_threshold"], **close)
    np.testing.assert_allclose(got["dice"], g["dice_curve"].max(), **close)


def test_the_published_map(golden):
    made = P.min_max_scale(P.strip_map(golden["img"], golden["pred"]))
    np.testing.assert_allclose(np.stack(made), golden["error_map"], rtol=1e-5, atol=1e-5)


def test_the_published_scores_from_its_map(golden):
    agrees(paper_scores(golden["error_map"], golden["seg"], golden["brain"]), golden)


def test_the_published_scores_from_its_predictions(golden):
    agrees(paper_scores(P.strip_map(golden["img"], golden["pred"]), golden["seg"], golden["brain"]), golden)


def test_each_quirk_is_needed(golden):
    "Without any quirk that these images depend on, the published numbers are missed."
    g, maps = (
        golden,
        P.strip_map(golden["img"], golden["pred"]) * np.float32(0.7) - np.float32(0.01),
    )  # the scale is made by min-max
    agrees(paper_scores(maps, g["seg"], g["brain"]), g)
    told = ["min_max", "background", "directed_means"] + ["eroded", "short_grid"] * g["edges"]
    for name in told:
        with pytest.raises(AssertionError):
            agrees(paper_scores(maps, g["seg"], g["brain"], without(name)), g)
    with pytest.raises(AssertionError):
        agrees(paper_scores(maps, g["seg"], g["brain"], without("fitted"), (maps, g["brain"])), g)
    for name in ("empty_error", "nan_for_empty", "no_healthy", "grown_labels", "pixels", "few_strips"):
        agrees(paper_scores(maps, g["seg"], g["brain"], without(name)), g)
    with pytest.raises(AssertionError):
        agrees(paper_scores(maps, g["seg"], g["brain"], without("pixels"), spacing=1.875), g)


def test_sum_and_mask_before_scaling_differ(golden):
    "A sum over strips, or the brain cut out before min-max, misses the map where the brain reaches the border."
    masks, error = published_masks(128).numpy(), (golden["pred"].astype(np.float32) - golden["img"]) ** 2

    def far(a):
        return np.abs(np.stack(P.min_max_scale(a)) - golden["error_map"]).max() > 0.01

    assert far((masks * error).sum(0)) == golden["edges"]
    assert far(P.strip_map(golden["img"], golden["pred"]) * golden["brain"]) == golden["edges"]


# ---- the switches
def test_the_corners():
    assert Quirks() == CLEAN
    assert set(asdict(CLEAN).values()) == {False}
    assert set(asdict(PAPER).values()) == {True}
    assert len(NAMES) == 12


def same(a, b, but=()):
    "Equal but for some entries; arrays and rows compared as numbers."

    def plain(r):
        return {k: v for k, v in r.items() if k not in (*but, "rows")}

    def rows(r):
        return [{k: v for k, v in row.items() if k not in but} for row in r["rows"]]

    np.testing.assert_equal(plain(a), plain(b))
    np.testing.assert_equal(rows(a), rows(b))
    return True


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("background", {"auc"}),
        ("directed_means", {"assd"}),
        ("pixels", {"assd"}),
        ("no_healthy", {"healthy"}),
        ("short_grid", set()),
        ("few_strips", set()),
        ("grown_labels", set()),
        (
            "fitted",
            {
                "dice",
                "sensitivity",
                "precision",
                "jaccard",
                "assd",
                "threshold",
                "grid",
                "dice_curve",
                "healthy",
                "marked",
            },
        ),
        ("eroded", {"dice", "sensitivity", "precision", "jaccard", "assd", "healthy", "marked"}),
        ("min_max", {"dice", "sensitivity", "precision", "jaccard", "assd", "threshold", "healthy", "marked", "auc"}),
    ],
)
def test_a_quirk_alone_changes_what_it_should_and_only_that(test, healthy, name, moved):
    before, after = (paper_scores(*test, q, healthy, spacing=2.0) for q in (CLEAN, alone(**{name: True})))
    if name == "no_healthy":
        after["rows"] += before["rows"][3:]
    assert same(before, after, moved)
    for k in moved - {"marked", "healthy", "grid", "dice_curve"} - ({"auc"} if name == "min_max" else set()):
        assert before[k] != after[k], k
    np.testing.assert_allclose(before["auc"], after["auc"], rtol=1e-5 if name != "background" else 1)


def test_fitted_is_the_oracle_of_summary(test, healthy):
    _maps, _truths, _brains = test
    r = paper_scores(*test, alone(fitted=True))
    inside = [(a[b], t[b]) for a, t, b in zip(*test)][:3]
    h = summary.best_threshold(*zip(*inside))
    best = np.mean([S.dice(s > h, t) for s, t in inside])
    assert r["dice"] == pytest.approx(best, abs=1e-12)
    assert r["dice_curve"].max() == pytest.approx(best, abs=1e-12)
    assert r["dice"] >= paper_scores(*test, CLEAN, healthy)["dice"]


@some
@given(seed=seeds)
def test_the_dice_curve_is_what_a_hand_computes(seed):
    rng = np.random.default_rng(seed)
    cut = [
        ((rng.random((6, 7)) * 8).round().astype(np.float32) / 8, rng.random((6, 7)) < 0.8, rng.random((6, 7)) < 0.3)
        for _ in range(3)
    ]
    for _, _, t in cut:
        t[0, 0] = True
    grid = [-1.0, 0.0, 0.125, 0.3, 0.5, 1.0]
    wanted = [np.mean([S.dice((a > h) & w, t) for a, w, t in cut]) for h in grid]
    np.testing.assert_allclose(P.dice_curve(cut, grid), wanted)
    h, tried, curve = P.fitted_threshold(cut, alone(fitted=True))
    dense = P.dice_curve(cut, np.linspace(-1, 1.1, 400))
    assert curve.max() >= dense.max() - 1e-12
    assert curve[list(tried).index(h)] == pytest.approx(curve.max(), abs=1e-11)


def test_the_short_grid_stops_at_a_tenth_of_the_largest_score(test):
    maps, _truths, _brains = test
    r = paper_scores(*test, alone(fitted=True, short_grid=True))
    assert len(r["grid"]) == 100
    assert r["grid"][-1] == pytest.approx(0.099 * max(m.max() for m in maps[:3]))
    assert r["threshold"] in r["grid"]
    assert r["dice"] < paper_scores(*test, alone(fitted=True))["dice"]
    stretched = paper_scores(*test, alone(fitted=True, short_grid=True, min_max=True))
    assert stretched["grid"][-1] == 0.099
    assert stretched["dice"] == pytest.approx(r["dice"], abs=1e-6)


def test_min_max_hides_behind_a_fitted_threshold(test, healthy):
    a, b = (paper_scores(*test, alone(fitted=True, min_max=m)) for m in (False, True))
    np.testing.assert_allclose([a[k] for k in P.MEANS], [b[k] for k in P.MEANS], atol=1e-6)
    top = max(m.max() for m in test[0])
    assert b["threshold"] == pytest.approx(a["threshold"] / top, rel=1e-4)


def test_with_min_max_a_stranger_changes_everybody(test, healthy):
    maps, truths, brains = test
    stranger = 5 * maps[0], truths[0], brains[0]
    for q, moved in ((CLEAN, False), (alone(min_max=True), True)):
        before, after = (
            paper_scores(*s, q, healthy)["rows"][:3] for s in (test, [[*v, x] for v, x in zip(test, stranger)])
        )
        assert (before != after) == moved, q
    scaled = [P.min_max_scale(m) for m in (maps, [*maps, stranger[0]])]
    np.testing.assert_allclose(scaled[1][0] * 5, scaled[0][0] * (max(m.max() for m in maps) / maps[0].max()), rtol=1e-5)
    both = np.concatenate([m.ravel() for m in scaled[0]])
    assert both.min() == 0
    assert both.max() == 1


def test_labels_grow_or_keep_their_area():
    rng = np.random.default_rng(0)
    for r in (4, 9, 15):
        y, x = np.mgrid[:60, :60] - rng.uniform(28, 32, (2, 1, 1))
        disk, ones = y**2 + x**2 < r * r, np.ones((60, 60), bool)
        kept, grown = (P.resize_for_scoring(disk * 1.0, disk, ones, 32, g)[1] for g in (False, True))
        assert not (kept & ~grown).any()
        assert abs(kept.sum() * (60 / 32) ** 2 / disk.sum() - 1) < 0.04
        assert grown.sum() > 1.1 * kept.sum()
        lit = np.zeros((32, 32), bool)  # each pixel that a lesion pixel touches
        for i, j in np.argwhere(disk):
            for a, b in itertools.product(
                *(range(int(k * 32 / 60), int(np.ceil((k + 1) * 32 / 60 - 1e-9))) for k in (i, j))
            ):
                lit[a, b] = True
        assert (grown == lit).all()
    again = P.resize_for_scoring(disk * 1.0, disk, ones, 60, True)
    assert (again[1] == disk).all()
    assert (P.resize_for_scoring(disk * 1.0, disk, ones)[1] == disk).all()


def test_a_known_growth():
    "A disk of radius 10 px grows by about a quarter from 240 to 128 pixels."
    y, x = np.mgrid[:240, :240] - 119.5
    disk = y**2 + x**2 < 100
    grown = (
        P.resize_for_scoring(disk * 1.0, disk, np.ones((240, 240)), 128, True)[1].sum() * (240 / 128) ** 2 / disk.sum()
    )
    assert 1.2 < grown < 1.28


def test_the_eroded_brain_against_distances(test):
    for brain in test[2]:
        for pad in (0, 10):
            b = np.pad(brain, pad)
            away = ndimage.distance_transform_edt(b)  # from the nearest pixel outside, inside the picture
            assert (P.eroded_brain(b) == (away > 4)).all()
    full = np.ones((20, 30), bool)
    assert P.eroded_brain(full).all(), "beyond the border the brain goes on"


def test_the_prediction_is_cut_and_the_truth_is_not(test):
    _maps, truths, brains = test
    a, t, b = np.where(truths[0], 9.0, 0.0).astype(np.float32), truths[0], brains[0]
    r = paper_scores([a], [t], [b], alone(fitted=True, eroded=True))
    found = (t & P.eroded_brain(b)).sum()
    assert 0 < found < t.sum()
    assert r["sensitivity"] == pytest.approx(found / t.sum())
    assert r["precision"] == 1
    assert paper_scores([a], [t], [b], alone(fitted=True))["dice"] == 1
    outside = np.zeros_like(t)
    outside[0, 0] = True  # truth that lies outside the brain
    where, truth = P.scored_region(t | outside, b, PAPER)
    assert truth[0, 0]
    assert not where[0, 0]
    where, truth = P.scored_region(t | outside, b, CLEAN)
    assert not truth[0, 0]
    assert (truth == t).all()
    assert (where == b).all()


def test_auroc_over_the_background(test):
    a, t, b = (v[0] for v in test)
    inside = roc_auc_score(t[b], a[b])
    assert P.area_under_roc(a, t, b, CLEAN) == pytest.approx(inside)
    assert P.area_under_roc(a, t, b, PAPER) == pytest.approx(
        roc_auc_score(t.ravel(), np.where(P.eroded_brain(b), a, 0).ravel())
    )
    wide = [P.area_under_roc(*(np.pad(v, m) for v in (a, t, b)), PAPER) for m in (0, 20, 80)]
    assert wide[0] < wide[1] < wide[2]
    assert P.area_under_roc(*(np.pad(v, 80) for v in (a, t, b)), CLEAN) == pytest.approx(inside)


def test_distances_by_protocol():
    rng = np.random.default_rng(0)
    p, t = rng.random((2, 20, 20)) < 0.1
    assert P.surface_distance(p, t, 2.0, CLEAN) == S.assd(p, t, 2.0)
    assert P.surface_distance(p, t, 2.0, PAPER) == S.masd(p, t)
    assert P.surface_distance(p, t, 2.0, alone(pixels=True)) == pytest.approx(S.assd(p, t, 2.0) / 2)
    none = np.zeros_like(p)
    assert P.surface_distance(none, t, 2.0, CLEAN) == pytest.approx(2 * np.hypot(20, 20))
    assert P.surface_distance(none, none, 2.0, CLEAN) == 0
    for pair, what in (((none, t), "prediction"), ((p, none), "truth"), ((none, none), "prediction")):
        with pytest.raises(ValueError, match=f"empty {what}"):
            P.surface_distance(*pair, 2.0, alone(empty_error=True))


def test_distances_in_mm_at_another_size(test, healthy):
    "Slices of 40 pixels of 2 mm, scored at 20: a pixel is 4 mm."
    a, b = (
        paper_scores(*test, q, healthy, size=20, spacing=2.0)["rows"][1]["assd"] for q in (CLEAN, alone(pixels=True))
    )
    assert a == pytest.approx(4 * b)


def test_empty_masks_of_overlap():
    none, one = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    clean = {
        "two empty": P.overlap_scores(none, none, CLEAN),
        "no mark": P.overlap_scores(none, one, CLEAN),
        "no truth": P.overlap_scores(one, none, CLEAN),
    }
    assert set(clean["two empty"].values()) == {1}
    assert set(clean["no mark"].values()) == set(clean["no truth"].values()) == {0}
    paper = {
        "two empty": P.overlap_scores(none, none, PAPER),
        "no mark": P.overlap_scores(none, one, PAPER),
        "no truth": P.overlap_scores(one, none, PAPER),
    }
    assert np.isnan(list(paper["two empty"].values())).all()
    assert np.isnan(paper["no mark"]["precision"])
    assert np.isnan(paper["no truth"]["sensitivity"])
    assert paper["no mark"]["dice"] == paper["no truth"]["dice"] == paper["no mark"]["jaccard"] == 0
    assert (
        P.overlap_scores(one, one, PAPER)
        == P.overlap_scores(one, one, CLEAN)
        == dict.fromkeys(("dice", "sensitivity", "precision", "jaccard"), 1)
    )


def test_healthy_slices_under_either_protocol(test, healthy):
    maps, truths, brains = test
    r = paper_scores(*test, CLEAN, healthy)
    marked = [(a > r["threshold"])[b].mean() for a, b in zip(maps[3:], brains[3:])]
    assert r["healthy"] == dict(n=2, marked=pytest.approx(np.mean(marked)), clear=np.mean(np.array(marked) == 0))
    assert r["n"] == 3
    assert paper_scores(*test)["healthy"] is None
    assert same(paper_scores(*test), paper_scores(*(v[:3] for v in test)))
    with pytest.raises(ValueError, match="empty truth"):
        paper_scores(*test, without("no_healthy"))  # the published code cannot
    quiet = [m * (k < 3) for k, m in enumerate(maps)]  # nothing is marked in health
    assert paper_scores(quiet, truths, brains, CLEAN, healthy)["healthy"]["clear"] == 1
    swallowed = paper_scores(quiet, truths, brains, alone(nan_for_empty=True), healthy)
    assert np.isnan(swallowed["healthy"]["clear"])
    assert swallowed["dice"] == r["dice"]


def test_the_threshold_comes_from_the_healthy_alone(test, healthy):
    import torch

    values = np.concatenate([a[b] for a, b in zip(*healthy)])
    for fpr in (0.01, 0.05):
        r = paper_scores(*test, CLEAN, healthy, fpr)
        assert r["threshold"] == healthy_threshold(torch.from_numpy(values), fpr)
        assert (values > r["threshold"]).mean() <= fpr
        assert r["grid"] is None
    swapped = [test[0], [np.roll(t, 3) & b for t, b in zip(test[1], test[2])], test[2]]
    assert paper_scores(*swapped, CLEAN, healthy)["threshold"] == paper_scores(*test, CLEAN, healthy)["threshold"], (
        "no label has a say"
    )


def test_few_strips_act_where_maps_are_made():
    rng = np.random.default_rng(0)
    x = rng.random((2, 16, 16)).astype(np.float32)
    for q, masks in ((PAPER, published_masks(16)), (CLEAN, even_masks(16))):
        y = rng.random((len(masks), 2, 16, 16)).astype(np.float32)
        m = masks.numpy()
        np.testing.assert_allclose(P.strip_map(x, y, q), (m * (y - x) ** 2).sum(0) / m.sum(0), rtol=1e-5)
        assert P.strip_map(x, np.broadcast_to(x, y.shape).copy(), q).max() == 0
    assert len(published_masks(16)) != len(even_masks(16))
    with pytest.raises(ValueError, match="strips on images"):
        P.strip_map(x, y, PAPER)


@settings(max_examples=60, deadline=None)
@given(on=st.tuples(*[st.booleans()] * len(NAMES)), size=st.sampled_from([0, 24]))
def test_any_combination_works_or_stops_in_words(on, size):
    q = Quirks(**dict(zip(NAMES, on)))
    try:
        r = paper_scores(*slices(), q, others(), size=size)
    except ValueError as e:
        stopped = q.empty_error and "no surface distance" in str(e)
        if not stopped:
            raise
        return
    assert 0 <= r["dice"] <= 1
    assert 0 <= r["auc"] <= 1
    assert r["assd"] >= 0
    assert r["n"] == 3
    assert (r["healthy"] is None) == q.no_healthy
    assert (r["dice_curve"] is None) == (not q.fitted)
    assert r["dice"] == pytest.approx(np.mean([x["dice"] for x in r["rows"] if x["lesion"]]))
