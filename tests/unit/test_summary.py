"""Oracle threshold, intervals and tables against brute force and SciPy; what holds for any set of subjects."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap
from score_strategies import quick, shaped, subject_of
from sklearn import metrics

from mmccd import scoring as S
from mmccd import summary as T

# ---- the oracle


def mean_dice(subjects, h):
    return np.mean([S.dice(s > h, t) for s, t in subjects])


def every_threshold(subjects):
    values = np.unique(np.concatenate([s for s, _ in subjects]))
    return [values[0] - 1 - abs(values[0]), *values]  # below all, and at each value: all there are


@quick
@given(subject_of())
def test_dice_steps_by_definition(s):
    score, truth = s
    values, found = T.dice_steps(score, truth)
    assert values.tolist() == sorted(set(score.tolist()), reverse=True)  # distinct: ties are passed together
    assert found == pytest.approx([S.dice(score >= v, truth) for v in values])


@quick
@given(st.lists(subject_of(), min_size=1, max_size=5))
def test_oracle_equals_brute_force(subjects):
    h = T.best_threshold(*zip(*subjects))
    found = [mean_dice(subjects, t) for t in every_threshold(subjects)]
    assert mean_dice(subjects, h) == pytest.approx(max(found))
    assert (
        h >= max(t for t, f in zip(every_threshold(subjects), found) if f > max(found) - 1e-9) - 1e-12
    )  # of several the highest


@quick
@given(st.lists(subject_of(st.floats(-1e6, 1e6)), min_size=1, max_size=4))
def test_oracle_equals_brute_force_on_floats(subjects):
    h = T.best_threshold(*zip(*subjects))
    assert math.isfinite(h)
    assert mean_dice(subjects, h) == pytest.approx(max(mean_dice(subjects, t) for t in every_threshold(subjects)))


@quick
@given(st.lists(subject_of(), min_size=1, max_size=4), st.floats(-3, 8))
def test_oracle_is_never_below_any_threshold(subjects, h):
    assert mean_dice(subjects, T.best_threshold(*zip(*subjects))) >= mean_dice(subjects, h) - 1e-9


@quick
@given(st.lists(subject_of(), min_size=1, max_size=4))
def test_fewer_subjects_flatter_the_oracle(subjects):
    each = np.mean([mean_dice([s], T.best_threshold([s[0]], [s[1]])) for s in subjects])
    assert each >= mean_dice(subjects, T.best_threshold(*zip(*subjects))) - 1e-9


def test_oracle_on_float32_marks_what_it_says():
    "The threshold is used with `>` on float32 maps; nothing may flip by rounding."
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=500).astype(np.float32) for _ in range(5)]
    truths = [s + rng.normal(size=500) > 1 for s in scores]
    h = T.best_threshold(scores, truths)
    for s in scores:
        np.testing.assert_array_equal(s > h, s.astype(np.float64) > h)
    everything = T.best_threshold([np.full(4, 1e9, np.float32)], [np.ones(4)])
    assert (np.full(4, 1e9, np.float32) > everything).all()


def test_oracle_sorts_once_and_does_not_loop_over_thresholds(monkeypatch):
    "A hundred slices of 17,000 pixels: one sort a subject and one of the pool, no call per threshold."
    rng, sorts = np.random.default_rng(0), []
    real = np.argsort
    monkeypatch.setattr(T.np, "argsort", lambda a, **k: sorts.append(a.size) or real(a, **k))
    scores = [rng.normal(size=17_000).astype(np.float32) for _ in range(100)]
    truths = [rng.random(17_000) < 0.1 for _ in scores]
    T.best_threshold(scores, truths)
    assert len(sorts) == 101
    assert sum(sorts) <= 2 * 100 * 17_000


# ---- intervals


def test_bootstrap_against_scipy():
    v = np.random.default_rng(0).beta(4, 2, 40)
    theirs = bootstrap(
        (v,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert T.bootstrap_interval(v, n=20_000) == pytest.approx(tuple(theirs), abs=0.003)


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_bootstrap_properties(values):
    low, high = T.bootstrap_interval(values, n=200)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    wide = T.bootstrap_interval(values, n=200, level=0.99)
    assert wide[0] <= low
    assert high <= wide[1]
    assert T.bootstrap_interval(values, n=200) == (low, high)  # same seed, same interval
    assert T.bootstrap_interval([0.3] * len(values), n=50) == pytest.approx((0.3, 0.3))


def test_bootstrap_of_one_says_nothing():
    assert all(map(math.isnan, T.bootstrap_interval([0.5])))


# ---- the table


def cohort(seed=0, n=6, size=60):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        t = rng.random(size) < rng.uniform(0.05, 0.4)
        out.append((f"s{i}", rng.normal(size=size).round(1) + t, t))
    return out


def test_alone_as_in_a_batch():
    subjects = cohort()
    batch = T.score_subjects(subjects, 0.7)["subjects"]
    for s, row in zip(subjects, batch):
        alone = T.score_subjects([s], 0.7)["subjects"][0]
        assert alone.pop("dice_oracle") >= row["dice_oracle"] - 1e-12  # the one column that looks at the others
        assert alone == {k: v for k, v in row.items() if k != "dice_oracle"}
    assert T.score_subjects(subjects[::-1], 0.7)["subjects"] == batch[::-1]


def test_rows_against_scikit_learn():
    for (name, s, t), row in zip(cohort(), T.score_subjects(cohort(), 0.7)["subjects"]):
        assert row["ap"] == pytest.approx(metrics.average_precision_score(t, s))
        assert row["auroc"] == pytest.approx(metrics.roc_auc_score(t, s))
        for c, f in dict(
            jaccard=metrics.jaccard_score, precision=metrics.precision_score, recall=metrics.recall_score
        ).items():
            assert row[c] == pytest.approx(f(t, s > 0.7))
        assert row["dice"] == pytest.approx(metrics.f1_score(t, s > 0.7))
        assert row["fpr"] == pytest.approx((s[~t] > 0.7).mean())
        assert (row["id"], row["pixels"], row["prevalence"]) == (name, t.size, pytest.approx(t.mean()))


@quick
@given(st.integers(0, 10_000), st.floats(-1, 2))
def test_oracle_column_is_never_below_the_calibrated_one(seed, threshold):
    r = T.score_subjects(cohort(seed, 3, 20), threshold)["summary"]
    assert r["dice_oracle"]["mean"] >= r["dice"]["mean"] - 1e-9


def test_summary_is_the_mean_over_subjects():
    subjects = [*cohort(), ("big", np.random.default_rng(9).random(5000), np.random.default_rng(8).random(5000) < 0.1)]
    r = T.score_subjects(subjects, 0.7)
    for c in T.COLUMNS:
        values = [row[c] for row in r["subjects"]]
        assert r["summary"][c]["mean"] == pytest.approx(np.mean(values))  # a big subject weighs as much as a small one
        assert (r["summary"][c]["low"], r["summary"][c]["high"]) == pytest.approx(T.bootstrap_interval(values))


def test_floor():
    r = T.score_subjects(T.everything_positive(cohort()), 0)
    for row in r["subjects"]:
        p = row["prevalence"]
        assert (row["dice"], row["dice_oracle"], row["ap"], row["auroc"], row["fpr"]) == pytest.approx(
            (2 * p / (1 + p), 2 * p / (1 + p), p, 0.5, 1)
        )


def test_result_is_json_and_says_how():
    healthy = ("h", np.arange(5.0), np.zeros(5, bool))
    for subjects, h in (
        (cohort(), 0.7),
        (cohort(), None),
        ([healthy], 3),
        ([*cohort(), healthy], np.float32(0.7)),
        ([("all", np.ones(3), np.ones(3))], 0),
    ):
        r = T.score_subjects(subjects, h, protocol="volume")
        assert json.loads(json.dumps(r, allow_nan=False)) == r
        assert r["protocol"] == "volume"
        assert (r["threshold"] is None) == (h is None)
        assert "labels" in r["oracle_origin"]
        assert "calibrated" in (r["threshold_origin"] or "calibrated")
        T.format_table({"x": r})
    row = T.score_subjects([healthy], 3)["subjects"][0]
    assert (row["ap"], row["auroc"], row["dice"], row["fpr"]) == (None, None, 0, 0.2)
    mixed = T.score_subjects([*cohort(), healthy], 0.7)["summary"]
    assert mixed["ap"]["n"] == 6
    assert mixed["fpr"]["n"] == mixed["dice"]["n"] == 7


def test_table():
    r = T.score_subjects(cohort(), 0.7)
    lines = T.format_table(
        {
            "floor": T.score_subjects(T.everything_positive(cohort()), 0),
            "A": r,
            "no threshold": T.score_subjects(cohort()),
        }
    ).split("\n")
    assert "Slice protocol, 6 subjects" in lines[0]
    assert "oracle" in lines[0]
    table = [[c.strip() for c in line.split("|")[1:-1]] for line in lines[2:]]
    assert len({len(t) for t in table}) == 1
    assert [t[0] for t in table] == [
        "detector",
        "---",
        "floor",
        "A",
        "no threshold",
    ]
    m = r["summary"]["ap"]
    assert table[3][table[0].index("AP")] == f"{m['mean']:.2f} [{m['low']:.2f}, {m['high']:.2f}]"
    assert table[4][1] == "-"


def test_different_protocols_do_not_share_a_table():
    a, b, c = T.score_subjects(cohort()), T.score_subjects(cohort(), protocol="volume"), T.score_subjects(cohort()[:3])
    for other in (b, c):
        with pytest.raises(ValueError, match="cannot share a table"):
            T.format_table({"a": a, "b": other})


@pytest.mark.parametrize("other", [lambda s, t: (s[:-1], t[:-1]), lambda s, t: (s, t ^ (np.arange(t.size) == 0))])
def test_other_pixels_do_not_share_a_table(other):
    "The same names, but another brain mask, or another truth."
    a = T.score_subjects(cohort())
    b = T.score_subjects([(id, *other(s, t)) for id, s, t in cohort()])
    with pytest.raises(ValueError, match="the pixels that count, so they cannot share a table"):
        T.format_table({"a": a, "b": b})
    assert T.format_table({"a": a, "b": T.score_subjects([(id, -s, t) for id, s, t in cohort()])})


# ---- shapes in the table


def scene(seed=0, shape=(12, 11, 4)):
    rng = np.random.default_rng(seed)
    brain = np.zeros(shape, bool)
    brain[1:-1, 1:-1, 1:] = True
    truth = np.zeros(shape, bool)
    truth[3:6, 3:6, 1:3] = True
    return rng.random(shape) < 0.2, truth, brain


@pytest.mark.parametrize(("at", "mm", "slices"), [((...,), (1, 2, 3), 3), ((..., 2), (1, 2), 1)])
def test_shapes_of_a_subject(at, mm, slices):
    p, t, b = (v[at] for v in scene())
    got = T.score_shapes(p, t, b, mm)
    assert tuple(got) == T.SHAPES
    assert got["assd"] == S.assd(p & b, t & b, mm)
    assert got["hd95"] == S.hd95(p & b, t & b, mm)
    assert got["lesion_recall"] == S.lesion_recall(p & b, t & b)
    assert got["false_lesions"] == S.false_lesions(p & b, t & b) > 0
    seen = [(p & b, t & b)] if p.ndim == 2 else [((p & b)[..., k], (t & b)[..., k]) for k in range(4)]
    assert got["false_a_slice"] == sum(S.false_lesions(*v) for v in seen) / slices  # as seen slice by slice
    assert got["size"] == pytest.approx(t.sum() * np.prod(mm) / (1000 if t.ndim == 3 else 100))  # ml, cm2
    assert got == T.score_shapes(p | ~b, t | ~b, b, mm)  # outside the brain nothing counts
    assert got != T.score_shapes(p, t, b | True, mm)


def test_shapes_join_the_rows():
    subjects, shapes = cohort(), [T.score_shapes(*scene(i)) for i in range(6)]
    plain, r = T.score_subjects(subjects, 0.7), T.score_subjects(subjects, 0.7, shapes=shapes)
    assert [{k: v for k, v in row.items() if k not in T.SHAPES} for row in r["subjects"]] == plain["subjects"]
    assert [{k: row[k] for k in T.SHAPES} for row in r["subjects"]] == shapes
    assert json.loads(json.dumps(r, allow_nan=False)) == r
    for c in ("assd", "hd95", "false_a_slice"):
        assert r["summary"][c]["mean"] == pytest.approx(np.mean([s[c] for s in shapes]))
        assert c not in plain["summary"]
    assert set(T.MORE) <= set(r["summary"])
    assert {"jaccard", "precision", "recall"} <= set(plain["summary"])
    alone = T.score_subjects(subjects[2:3], 0.7, shapes=shapes[2:3])["subjects"][0]
    assert {k: v for k, v in alone.items() if k != "dice_oracle"} == {
        k: v for k, v in r["subjects"][2].items() if k != "dice_oracle"
    }
    part = T.score_subjects(subjects, 0.7, shapes=[None, {"size": 3.0}, *shapes[2:]])
    assert part["summary"]["assd"]["n"] == 4
    assert part["subjects"][0]["size"] is None
    assert part["subjects"][1]["size"] == 3


def test_two_tables():
    subjects, shapes = cohort(), [T.score_shapes(*scene(i)) for i in range(6)]
    plain, r = T.score_subjects(subjects, 0.7), T.score_subjects(subjects, 0.7, shapes=shapes)
    assert T.format_table({"A": r}) == T.format_table({"A": plain}) == T.format_table({"A": r}, T.COLUMNS)
    old = plain | {"summary": {c: plain["summary"][c] for c in T.COLUMNS}}  # a result from before there were shapes
    assert T.format_table({"A": old}) == T.format_table({"A": r})
    head, _, *lines = T.format_table({"A": r, "old": old}, T.MORE).split("\n")
    table = [[c.strip() for c in line.split("|")[1:-1]] for line in lines]
    assert table[0] == ["detector", *T.MORE.values()]
    assert table[3][1:] == ["-"] * len(T.MORE)
    assert "oracle" not in head
    m = r["summary"]["hd95"]
    assert table[2][table[0].index("HD95 (mm)")] == f"{m['mean']:.1f} [{m['low']:.1f}, {m['high']:.1f}]"


# ---- pairs, sizes, the healthy


def test_paired_bootstrap_against_scipy():
    rng = np.random.default_rng(0)
    a = rng.beta(4, 2, 40)
    b = a + rng.normal(0.02, 0.05, 40)
    theirs = bootstrap(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    got = T.paired_bootstrap(a, b, n=20_000)
    assert (got["low"], got["high"]) == pytest.approx(tuple(theirs), abs=0.001)
    assert got["mean"] == pytest.approx((a - b).mean())
    assert got["n"] == 40
    assert got["high"] - got["low"] < 0.3 * np.diff(T.bootstrap_interval(a))[0]  # what subjects share drops out


numbers = st.lists(st.floats(-1, 1), min_size=2, max_size=12)


@quick
@given(numbers, st.integers(0, 99))
def test_paired_bootstrap_properties(a, seed):
    rng = np.random.default_rng(seed)
    b, hard = rng.random(len(a)), rng.random(len(a))
    assert T.paired_bootstrap(a, a, n=50) == dict(mean=0, low=0, high=0, n=len(a))
    r, back, shifted = (T.paired_bootstrap(x, y, n=200) for x, y in ((a, b), (b, a), (a + hard, b + hard)))
    assert [back[k] for k in ("mean", "low", "high")] == pytest.approx([-r[k] for k in ("mean", "high", "low")])
    assert [shifted[k] for k in r] == pytest.approx([r[k] for k in r])
    assert min(np.subtract(a, b)) - 1e-9 <= r["low"] <= r["high"] <= max(np.subtract(a, b)) + 1e-9


def test_paired_bootstrap_needs_both():
    assert T.paired_bootstrap([1, None, 3, math.nan], [0, 5, 1, 2]) == T.paired_bootstrap([1, 3], [0, 1])
    assert T.paired_bootstrap([1, None], [0, 1]) == dict(mean=1, low=None, high=None, n=1)
    assert T.paired_bootstrap([None], [1]) == dict(mean=None, low=None, high=None, n=0) == T.paired_bootstrap([], [])


def test_overlapping_intervals_and_a_clear_difference():
    a = np.linspace(0.2, 0.9, 15)
    b = a + 0.03 + 0.01 * np.cos(np.arange(15))
    (_, high), (low, _) = T.bootstrap_interval(a), T.bootstrap_interval(b)
    assert high > low
    assert T.paired_bootstrap(b, a)["low"] > 0


def test_by_size_shares_out_the_subjects():
    sizes, rows = [0, 1.9, 2, 9.99, 10, 400], [{"dice": v} for v in (0.1, 0.2, 0.3, None, 0.5, 0.6)]
    got = T.by_size(rows, "dice", sizes, T.SIZES["slice"])
    assert [v["n"] for v in got.values()] == [2, 1, 2]
    assert [v["mean"] for v in got.values()] == pytest.approx([0.15, 0.3, 0.55])
    assert T.by_size([], "dice", [], T.SIZES["volume"]) == {
        k: dict(n=0, mean=None, low=None, high=None) for k in T.SIZES["volume"]
    }
    for bins in T.SIZES.values():
        ends = list(bins.values())
        assert ends[0][0] == 0
        assert ends[-1][1] == math.inf
        assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))


def test_false_area_by_hand():
    brain = np.zeros((10, 10, 5), bool)
    brain[2:8, 2:8, 1:] = True  # 4 slices of 36
    marked = np.zeros_like(brain)
    marked[2, 2, 1] = marked[3, 3, 2] = marked[7, 7, 4] = marked[0, 0] = True
    got = T.false_area(marked, brain, (2, 5, 9))
    assert got == pytest.approx(
        dict(share=3 / 144, cm2=3 * 10 / 100 / 4, false_a_slice=3 / 4)
    )  # two pieces in space, three in their slices
    assert T.false_area(marked[..., 1], brain[..., 1], (2, 5)) == pytest.approx(
        dict(share=1 / 36, cm2=0.1, false_a_slice=1)
    )
    assert (
        T.false_area(marked, brain, 3)
        == T.false_area(marked, brain, (3, 3, 3))
        == T.false_area(marked | ~brain, brain, 3)
    )
    assert T.false_area(brain & False, brain) == dict(share=0, cm2=0, false_a_slice=0)


@quick
@given(shaped(empty=False), st.integers(0, 99))
def test_pieces_a_slice_are_those_seen_in_a_slice(case, seed):
    p, brain, mm = case
    if p.ndim == 2:
        p, brain, mm = p[..., None], brain[..., None], (*mm, 1.0)
    slices = [k for k in range(p.shape[2]) if brain[..., k].any()]
    each = [T.false_area(p[..., k], brain[..., k], mm[:1] * 2) for k in slices]
    got = T.false_area(p, brain, mm)
    assert got["false_a_slice"] == pytest.approx(
        np.mean([e["false_a_slice"] for e in each])
    )  # a volume is the mean of its slices
    assert T.false_area(brain, brain)["false_a_slice"] >= 1  # everything marked: at least one in each slice
    assert T.score_shapes(p, p & False, brain)["false_a_slice"] == pytest.approx(got["false_a_slice"])
    assert got["false_a_slice"] * len(slices) >= S.components(p & brain)[1]  # a piece in space is seen at least once


def test_a_column_of_false_marks_is_seen_in_each_slice():
    brain, truth = np.ones((2, 6, 6, 4), bool)
    truth[:] = False
    truth[:3, :3, 0] = True
    pred = np.zeros_like(brain)
    pred[5, 5] = True  # one piece in space
    pred[1, 1] = True  # another, which overlaps the lesion in one slice only
    got = T.score_shapes(pred, truth, brain)
    assert got["false_lesions"] == 1
    assert got["false_a_slice"] == (4 + 3) / 4


def test_a_mean_leaves_out_what_is_undefined():
    rows = [{"ap": v} for v in (0.25, None, math.nan, np.float32(0.75), np.float64("nan"))]
    assert T.summarise(rows, "ap") == T.summarise([rows[0], rows[3]], "ap")
    assert T.summarise(rows, "ap")["n"] == 2
    assert T.summarise(rows[1:3], "ap") == dict(n=0, mean=None, low=None, high=None)
    assert T.summarise(rows[:3], "ap")["mean"] == 0.25


# ---- bad input: one plain sentence

V = np.ones((3, 3, 3))
BAD = {
    "oracle of none": (lambda: T.best_threshold([], []), "at least one"),
    "oracle of unequal lists": (lambda: T.best_threshold([V], []), "1 and 0"),
    "bootstrap of none": (lambda: T.bootstrap_interval([]), "finite numbers"),
    "bootstrap of nan": (lambda: T.bootstrap_interval([1, np.nan]), "finite numbers"),
    "bootstrap level": (lambda: T.bootstrap_interval([1, 2], level=95), "0 < level < 1"),
    "no subjects": (lambda: T.score_subjects([]), "no subjects"),
    "protocol": (lambda: T.score_subjects(cohort(), protocol="patch"), "'patch'"),
    "threshold": (lambda: T.score_subjects(cohort(), float("nan")), "finite or None"),
    "no results": (lambda: T.format_table({}), "no results"),
    "other brain": (lambda: T.score_shapes(V, V, V[:2]), r"\(2, 3, 3\)"),
    "labels in a brain": (lambda: T.score_shapes(V, V, 3 * V), "holds 3"),
    "unequal pairs": (lambda: T.paired_bootstrap([1, 2], [1]), r"\(2,\) and \(1,\)"),
    "infinite pair": (lambda: T.paired_bootstrap([np.inf, 2], [1, 2]), "finite"),
    "shapes for some": (lambda: T.score_subjects(cohort(), 0.7, shapes=[None]), "1 for 6"),
    "sizes for some": (lambda: T.by_size([{}], "dice", [], {}), "0 for 1"),
    "healthy without brain": (lambda: T.false_area(V, 0 * V), "brain mask is empty"),
    "healthy of two shapes": (lambda: T.false_area(V, V[:2]), "one shape"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_in_one_sentence(what):
    call, words = BAD[what]
    with pytest.raises(ValueError, match=words) as e:
        call()
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 250
