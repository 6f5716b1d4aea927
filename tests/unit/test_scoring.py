"""Overlap and rank scores against SciPy, scikit-learn and the definitions; which pixels a protocol takes."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial import distance
from scipy.stats import mannwhitneyu
from score_strategies import masks, quick, subject_of
from sklearn import metrics

from mmccd import scoring as S
from mmccd import summary as T

# ---- overlap


@quick
@given(masks)
def test_overlap_against_other_libraries(pair):
    p, t = pair
    assume((p | t).any())
    assert S.dice(p, t) == pytest.approx(1 - distance.dice(p, t))
    assert S.jaccard(p, t) == pytest.approx(1 - distance.jaccard(p, t))
    kw = dict(zero_division=0)
    assert S.precision(p, t) == pytest.approx(metrics.precision_score(t, p, **kw))
    assert S.recall(p, t) == pytest.approx(metrics.recall_score(t, p, **kw))
    assert S.dice(p, t) == pytest.approx(metrics.f1_score(t, p, **kw))


@quick
@given(masks)
def test_overlap_properties(pair):
    p, t = pair
    J = S.jaccard(p, t)
    assert S.dice(p, p) == S.jaccard(p, p) == S.precision(p, p) == S.recall(p, p) == 1
    assert S.dice(p, t) == S.dice(t, p)
    assert S.precision(p, t) == S.recall(t, p)
    assert S.dice(p, t) == pytest.approx(2 * J / (1 + J))
    assert 0 <= J <= S.dice(p, t) <= 1
    order = np.random.default_rng(0).permutation(len(p))
    assert S.dice(p[order], t[order]) == S.dice(p, t)  # pixels have no order


@pytest.mark.parametrize("f", [S.dice, S.jaccard, S.precision, S.recall])
def test_empty_masks_are_defined(f):
    none, one = np.zeros((2, 2)), np.eye(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (f(none, none), f(one, none), f(none, one)) == (1, 0, 0)


def test_counts_by_hand():
    p, t = [[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [1, 1, 1]]
    assert S.counts(p, t) == (2, 1, 2)
    assert (S.dice(p, t), S.jaccard(p, t), S.precision(p, t), S.recall(p, t)) == pytest.approx(
        (4 / 7, 2 / 5, 2 / 3, 1 / 2)
    )
    assert S.dice(torch.tensor(p), torch.tensor(t)) == pytest.approx(4 / 7)


# ---- rank scores


def ap_by_definition(score, truth):
    "Sum over distinct thresholds of (recall step) x precision."
    total, before = 0.0, 0.0
    for h in sorted(set(score.tolist()), reverse=True):
        marked = score >= h
        recall = (marked & truth).sum() / truth.sum()
        total += (recall - before) * (marked & truth).sum() / marked.sum()
        before = recall
    return total


@quick
@given(subject_of())
def test_rank_scores_by_definition(s):
    score, truth = s
    if truth.any():
        assert S.average_precision(score, truth) == pytest.approx(ap_by_definition(score, truth))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scikit-learn warns where it has no answer
            assert math.isnan(S.average_precision(score, truth))
    if truth.any() and not truth.all():
        u = mannwhitneyu(
            score[truth], score[~truth]
        ).statistic  # the probability of the definition, times the number of pairs
        assert S.auroc(score, truth) == pytest.approx(u / truth.sum() / (~truth).sum())
        assert S.auroc(-score, truth) == pytest.approx(1 - S.auroc(score, truth))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert math.isnan(S.auroc(score, truth))


@quick
@given(subject_of(), st.sampled_from([np.exp, np.arctan, lambda v: 3 * v - 5, lambda v: v**3 + v]))
def test_rank_scores_ignore_increasing_maps(s, f):
    score, truth = s
    for g in (S.average_precision, S.auroc):
        assert g(f(score), truth) == pytest.approx(g(score, truth), nan_ok=True)
    assert S.dice(f(score) > f(0.5), truth) == S.dice(score > 0.5, truth)


def test_random_scores_are_at_chance():
    rng = np.random.default_rng(0)
    for p in (0.02, 0.2, 0.7):
        truth, score = rng.random(50_000) < p, rng.random(50_000)
        assert S.average_precision(score, truth) == pytest.approx(p, abs=0.02)
        assert S.auroc(score, truth) == pytest.approx(0.5, abs=0.02)


def test_a_perfect_score_is_perfect():
    truth = np.arange(10) > 6
    assert S.average_precision(truth, truth) == S.auroc(truth, truth) == 1
    assert S.dice(truth > T.best_threshold([truth], [truth]), truth) == 1


# ---- protocols


def volumes(seed=0, lesion=True):
    rng = np.random.default_rng(seed)
    anomaly, brain = rng.random((7, 6, 5)).astype(np.float32), rng.random((7, 6, 5)) < 0.7
    truth = (rng.random((7, 6, 5)) < 0.1) & lesion
    truth[..., 3] |= (rng.random((7, 6)) < 0.6) & lesion
    return anomaly, truth, brain


@pytest.mark.parametrize("lesion", [True, False])
def test_outside_the_brain_never_counts(lesion):
    anomaly, truth, brain = volumes(lesion=lesion)
    for protocol in (S.volume_protocol, lambda *v: S.slice_protocol(*v, slices=range(5))):
        clean = protocol(anomaly, truth, brain)
        for score, label in ((np.inf, True), (-1e9, False), (np.nan, True)):
            dirty = protocol(np.where(brain, anomaly, score), np.where(brain, truth, label), brain)
            for a, b in zip(clean, dirty):
                np.testing.assert_array_equal(a, b)


def test_protocols_take_what_they_say():
    anomaly, truth, brain = volumes()
    score, label = S.slice_protocol(anomaly, truth, brain, range(5))
    assert S.worst_slice(truth, brain, range(5)) == 3
    np.testing.assert_array_equal(score, anomaly[:, :, 3][brain[:, :, 3]])
    np.testing.assert_array_equal(label, truth[:, :, 3][brain[:, :, 3]])
    assert S.worst_slice(truth, brain, range(2)) < 2  # only where the protocol looks
    score, label = S.volume_protocol(anomaly, truth, brain)
    assert score.size == brain.sum()
    assert label.sum() == (truth & brain).sum()
    flipped = S.volume_protocol(anomaly[::-1], truth[::-1], brain[::-1])
    assert S.average_precision(*flipped) == pytest.approx(S.average_precision(score, label))


def test_healthy_slice_is_the_one_with_most_brain():
    anomaly, truth, brain = volumes(lesion=False)
    brain[..., 2] = True
    assert S.worst_slice(truth, brain, range(5)) == 2
    assert S.slice_protocol(anomaly, truth, brain, range(5))[1].sum() == 0


def test_default_slices_are_those_of_the_paper():
    lesion = np.zeros((3, 3, 155), bool)
    lesion[..., 60] = True
    lesion[1, 1, 77] = True
    assert S.worst_slice(lesion, np.ones_like(lesion)) == 77


# ---- bad input: one plain sentence

V = np.ones((3, 3, 3))
BAD = {
    "shape": (lambda: S.dice(np.ones(3), np.ones((3, 1))), r"\(3,\) and \(3, 1\)"),
    "labels": (lambda: S.dice([0, 2], [0, 1]), "holds 2"),
    "nan mask": (lambda: S.dice([0, 1], [0, np.nan]), "truth must hold 0 and 1 only, but it holds nan"),
    "no pixels": (lambda: S.dice([], []), "no pixels"),
    "nan score": (lambda: S.auroc([0, np.nan, np.inf], [0, 1, 1]), "2 of 3 values"),
    "score shape": (lambda: S.average_precision(np.ones(3), np.ones(4)), "one shape"),
    "nan in the brain": (lambda: S.volume_protocol(V * np.nan, V, V), "finite"),
    "volumes differ": (lambda: S.volume_protocol(V, V[:2], V), r"\(2, 3, 3\)"),
    "a slice, no volume": (lambda: S.slice_protocol(V[0], V[0], V[0]), "x y z"),
    "no brain": (lambda: S.volume_protocol(V, V, 0 * V), "brain mask is empty"),
    "no such slice": (lambda: S.slice_protocol(V, V, V), "slices 0 to 2"),
    "no slices": (lambda: S.slice_protocol(V, V, V, []), "slices 0 to 2"),
    "no brain in the slices": (lambda: S.slice_protocol(V, 0 * V, np.eye(3)[0] * V, [2]), "holds no brain"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_in_one_sentence(what):
    call, words = BAD[what]
    with pytest.raises(ValueError, match=words) as e:
        call()
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 250
