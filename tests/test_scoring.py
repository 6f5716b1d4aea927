"""Scores against SciPy, scikit-learn, brute force and the definitions; laws; bad input; real patients where they are at hand."""
import json, math, warnings
from pathlib import Path

import numpy as np, pytest, torch
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import distance
from scipy.stats import bootstrap, mannwhitneyu
from sklearn import metrics

from mmccd import scoring as S

REAL = Path(__file__).resolve().parent.parent.parent/'shared/real/brats2021'
quick = settings(max_examples=100, deadline=None)
masks = st.integers(1, 30).flatmap(lambda n: st.tuples(arrays(bool, n), arrays(bool, n)))
few = st.sampled_from([-2., 0., .5, 1., 7.])                             # few values: many ties
def subject_of(elements=few): return st.integers(1, 25).flatmap(lambda n: st.tuples(arrays(np.float64, n, elements=elements), arrays(bool, n)))


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
def test_overlap_laws(pair):
    p, t = pair
    J = S.jaccard(p, t)
    assert S.dice(p, p) == S.jaccard(p, p) == S.precision(p, p) == S.recall(p, p) == 1
    assert S.dice(p, t) == S.dice(t, p) and S.precision(p, t) == S.recall(t, p)
    assert S.dice(p, t) == pytest.approx(2 * J / (1 + J))
    assert 0 <= J <= S.dice(p, t) <= 1
    order = np.random.default_rng(0).permutation(len(p))
    assert S.dice(p[order], t[order]) == S.dice(p, t)                    # pixels have no order


@pytest.mark.parametrize('f', [S.dice, S.jaccard, S.precision, S.recall])
def test_empty_masks_are_defined(f):
    none, one = np.zeros((2, 2)), np.eye(2)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert (f(none, none), f(one, none), f(none, one)) == (1, 0, 0)


def test_counts_by_hand():
    p, t = [[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [1, 1, 1]]
    assert S.counts(p, t) == (2, 1, 2)
    assert (S.dice(p, t), S.jaccard(p, t), S.precision(p, t), S.recall(p, t)) == pytest.approx((4 / 7, 2 / 5, 2 / 3, 1 / 2))
    assert S.dice(torch.tensor(p), torch.tensor(t)) == pytest.approx(4 / 7)


# ---- rank scores

def ap_by_definition(score, truth):
    "Sum over distinct thresholds of (recall step) x precision."
    total, before = 0., 0.
    for h in sorted(set(score.tolist()), reverse=True):
        marked = score >= h
        recall = (marked & truth).sum() / truth.sum()
        total += (recall - before) * (marked & truth).sum() / marked.sum(); before = recall
    return total


@quick
@given(subject_of())
def test_rank_scores_by_definition(s):
    score, truth = s
    if truth.any(): assert S.average_precision(score, truth) == pytest.approx(ap_by_definition(score, truth))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter('error')                               # scikit-learn warns where it has no answer
            assert math.isnan(S.average_precision(score, truth))
    if truth.any() and not truth.all():
        u = mannwhitneyu(score[truth], score[~truth]).statistic          # the probability of the definition, times the number of pairs
        assert S.auroc(score, truth) == pytest.approx(u / truth.sum() / (~truth).sum())
        assert S.auroc(-score, truth) == pytest.approx(1 - S.auroc(score, truth))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert math.isnan(S.auroc(score, truth))


@quick
@given(subject_of(), st.sampled_from([np.exp, np.arctan, lambda v: 3 * v - 5, lambda v: v ** 3 + v]))
def test_rank_scores_ignore_increasing_maps(s, f):
    score, truth = s
    for g in (S.average_precision, S.auroc): assert g(f(score), truth) == pytest.approx(g(score, truth), nan_ok=True)
    assert S.dice(f(score) > f(.5), truth) == S.dice(score > .5, truth)


def test_random_scores_are_at_chance():
    rng = np.random.default_rng(0)
    for p in (.02, .2, .7):
        truth, score = rng.random(50_000) < p, rng.random(50_000)
        assert S.average_precision(score, truth) == pytest.approx(p, abs=.02) and S.auroc(score, truth) == pytest.approx(.5, abs=.02)


def test_a_perfect_score_is_perfect():
    truth = np.arange(10) > 6
    assert S.average_precision(truth, truth) == S.auroc(truth, truth) == 1
    assert S.dice(truth > S.best_threshold([truth], [truth]), truth) == 1


# ---- the oracle

def mean_dice(subjects, h): return np.mean([S.dice(s > h, t) for s, t in subjects])


def every_threshold(subjects):
    values = np.unique(np.concatenate([s for s, _ in subjects]))
    return [values[0] - 1 - abs(values[0]), *values]                                    # below all, and at each value: all there are


@quick
@given(subject_of())
def test_dice_steps_by_definition(s):
    score, truth = s
    values, found = S.dice_steps(score, truth)
    assert values.tolist() == sorted(set(score.tolist()), reverse=True)  # distinct: ties are passed together
    assert found == pytest.approx([S.dice(score >= v, truth) for v in values])


@quick
@given(st.lists(subject_of(), min_size=1, max_size=5))
def test_oracle_equals_brute_force(subjects):
    h = S.best_threshold(*zip(*subjects))
    found = [mean_dice(subjects, t) for t in every_threshold(subjects)]
    assert mean_dice(subjects, h) == pytest.approx(max(found))
    assert h >= max(t for t, f in zip(every_threshold(subjects), found) if f > max(found) - 1e-9) - 1e-12   # of several the highest


@quick
@given(st.lists(subject_of(st.floats(-1e6, 1e6)), min_size=1, max_size=4))
def test_oracle_equals_brute_force_on_floats(subjects):
    h = S.best_threshold(*zip(*subjects))
    assert math.isfinite(h)
    assert mean_dice(subjects, h) == pytest.approx(max(mean_dice(subjects, t) for t in every_threshold(subjects)))


@quick
@given(st.lists(subject_of(), min_size=1, max_size=4), st.floats(-3, 8))
def test_oracle_is_never_below_any_threshold(subjects, h):
    assert mean_dice(subjects, S.best_threshold(*zip(*subjects))) >= mean_dice(subjects, h) - 1e-9


@quick
@given(st.lists(subject_of(), min_size=1, max_size=4))
def test_fewer_subjects_flatter_the_oracle(subjects):
    each = np.mean([mean_dice([s], S.best_threshold([s[0]], [s[1]])) for s in subjects])
    assert each >= mean_dice(subjects, S.best_threshold(*zip(*subjects))) - 1e-9


def test_oracle_on_float32_marks_what_it_says():
    "The threshold is used with `>` on float32 maps; nothing may flip by rounding."
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=500).astype(np.float32) for _ in range(5)]
    truths = [s + rng.normal(size=500) > 1 for s in scores]
    h = S.best_threshold(scores, truths)
    for s in scores: np.testing.assert_array_equal(s > h, s.astype(np.float64) > h)
    everything = S.best_threshold([np.full(4, 1e9, np.float32)], [np.ones(4)])
    assert (np.full(4, 1e9, np.float32) > everything).all()


def test_oracle_sorts_once_and_does_not_loop_over_thresholds(monkeypatch):
    "A hundred slices of 17,000 pixels: one sort a subject and one of the pool, no call per threshold."
    rng, sorts = np.random.default_rng(0), []
    real = np.argsort
    monkeypatch.setattr(S.np, 'argsort', lambda a, **k: sorts.append(a.size) or real(a, **k))
    scores = [rng.normal(size=17_000).astype(np.float32) for _ in range(100)]
    truths = [rng.random(17_000) < .1 for _ in scores]
    S.best_threshold(scores, truths)
    assert len(sorts) == 101 and sum(sorts) <= 2 * 100 * 17_000


# ---- intervals

def test_bootstrap_against_scipy():
    v = np.random.default_rng(0).beta(4, 2, 40)
    theirs = bootstrap((v,), np.mean, n_resamples=20_000, method='percentile', rng=np.random.default_rng(1)).confidence_interval
    assert S.bootstrap_interval(v, n=20_000) == pytest.approx(tuple(theirs), abs=.003)


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_bootstrap_laws(values):
    low, high = S.bootstrap_interval(values, n=200)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    wide = S.bootstrap_interval(values, n=200, level=.99)
    assert wide[0] <= low and high <= wide[1]
    assert S.bootstrap_interval(values, n=200) == (low, high)            # same seed, same interval
    assert S.bootstrap_interval([.3] * len(values), n=50) == pytest.approx((.3, .3))


def test_bootstrap_of_one_says_nothing(): assert all(map(math.isnan, S.bootstrap_interval([.5])))


# ---- protocols

def volumes(seed=0, lesion=True):
    rng = np.random.default_rng(seed)
    anomaly, brain = rng.random((7, 6, 5)).astype(np.float32), rng.random((7, 6, 5)) < .7
    truth = (rng.random((7, 6, 5)) < .1) & lesion
    truth[..., 3] |= (rng.random((7, 6)) < .6) & lesion
    return anomaly, truth, brain


@pytest.mark.parametrize('lesion', [True, False])
def test_outside_the_brain_never_counts(lesion):
    anomaly, truth, brain = volumes(lesion=lesion)
    for protocol in (S.volume_protocol, lambda *v: S.slice_protocol(*v, slices=range(5))):
        clean = protocol(anomaly, truth, brain)
        for score, label in ((np.inf, True), (-1e9, False), (np.nan, True)):
            dirty = protocol(np.where(brain, anomaly, score), np.where(brain, truth, label), brain)
            for a, b in zip(clean, dirty): np.testing.assert_array_equal(a, b)


def test_protocols_take_what_they_say():
    anomaly, truth, brain = volumes()
    score, label = S.slice_protocol(anomaly, truth, brain, range(5))
    assert S.worst_slice(truth, brain, range(5)) == 3
    np.testing.assert_array_equal(score, anomaly[:, :, 3][brain[:, :, 3]]); np.testing.assert_array_equal(label, truth[:, :, 3][brain[:, :, 3]])
    assert S.worst_slice(truth, brain, range(2)) < 2                     # only where the protocol looks
    score, label = S.volume_protocol(anomaly, truth, brain)
    assert score.size == brain.sum() and label.sum() == (truth & brain).sum()
    flipped = S.volume_protocol(anomaly[::-1], truth[::-1], brain[::-1])
    assert S.average_precision(*flipped) == pytest.approx(S.average_precision(score, label))


def test_healthy_slice_is_the_one_with_most_brain():
    anomaly, truth, brain = volumes(lesion=False)
    brain[..., 2] = True
    assert S.worst_slice(truth, brain, range(5)) == 2 and S.slice_protocol(anomaly, truth, brain, range(5))[1].sum() == 0


def test_default_slices_are_those_of_the_paper():
    lesion = np.zeros((3, 3, 155), bool); lesion[..., 60] = True; lesion[1, 1, 77] = True
    assert S.worst_slice(lesion, np.ones_like(lesion)) == 77


# ---- the table

def cohort(seed=0, n=6, size=60):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        t = rng.random(size) < rng.uniform(.05, .4)
        out.append((f's{i}', rng.normal(size=size).round(1) + t, t))
    return out


def test_alone_as_in_a_batch():
    subjects = cohort()
    batch = S.score_subjects(subjects, .7)['subjects']
    for s, row in zip(subjects, batch):
        alone = S.score_subjects([s], .7)['subjects'][0]
        assert alone.pop('dice_oracle') >= row['dice_oracle'] - 1e-12    # the one column that looks at the others
        assert alone == {k: v for k, v in row.items() if k != 'dice_oracle'}
    assert S.score_subjects(subjects[::-1], .7)['subjects'] == batch[::-1]


def test_rows_against_scikit_learn():
    for (name, s, t), row in zip(cohort(), S.score_subjects(cohort(), .7)['subjects']):
        assert row['ap'] == pytest.approx(metrics.average_precision_score(t, s)) and row['auroc'] == pytest.approx(metrics.roc_auc_score(t, s))
        assert row['dice'] == pytest.approx(metrics.f1_score(t, s > .7)) and row['fpr'] == pytest.approx((s[~t] > .7).mean())
        assert (row['id'], row['pixels'], row['prevalence']) == (name, t.size, pytest.approx(t.mean()))


@quick
@given(st.integers(0, 10_000), st.floats(-1, 2))
def test_oracle_column_is_never_below_the_calibrated_one(seed, threshold):
    r = S.score_subjects(cohort(seed, 3, 20), threshold)['summary']
    assert r['dice_oracle']['mean'] >= r['dice']['mean'] - 1e-9


def test_summary_is_the_mean_over_subjects():
    subjects = cohort() + [('big', np.random.default_rng(9).random(5000), np.random.default_rng(8).random(5000) < .1)]
    r = S.score_subjects(subjects, .7)
    for c in S.COLUMNS:
        values = [row[c] for row in r['subjects']]
        assert r['summary'][c]['mean'] == pytest.approx(np.mean(values))  # a big subject weighs as much as a small one
        assert (r['summary'][c]['low'], r['summary'][c]['high']) == pytest.approx(S.bootstrap_interval(values))


def test_floor():
    r = S.score_subjects(S.everything_positive(cohort()), 0)
    for row in r['subjects']:
        p = row['prevalence']
        assert (row['dice'], row['dice_oracle'], row['ap'], row['auroc'], row['fpr']) == pytest.approx((2 * p / (1 + p), 2 * p / (1 + p), p, .5, 1))


def test_result_is_json_and_says_how():
    healthy = ('h', np.arange(5.), np.zeros(5, bool))
    for subjects, h in ((cohort(), .7), (cohort(), None), ([healthy], 3), (cohort() + [healthy], np.float32(.7)), ([('all', np.ones(3), np.ones(3))], 0)):
        r = S.score_subjects(subjects, h, protocol='volume')
        assert json.loads(json.dumps(r, allow_nan=False)) == r
        assert r['protocol'] == 'volume' and (r['threshold'] is None) == (h is None) and 'labels' in r['oracle_origin']
        assert 'calibrated' in (r['threshold_origin'] or 'calibrated')
        S.format_table({'x': r})
    row = S.score_subjects([healthy], 3)['subjects'][0]
    assert (row['ap'], row['auroc'], row['dice'], row['fpr']) == (None, None, 0, .2)
    mixed = S.score_subjects(cohort() + [healthy], .7)['summary']
    assert mixed['ap']['n'] == 6 and mixed['fpr']['n'] == mixed['dice']['n'] == 7


def test_table():
    r = S.score_subjects(cohort(), .7)
    lines = S.format_table({'floor': S.score_subjects(S.everything_positive(cohort()), 0), 'A': r, 'no threshold': S.score_subjects(cohort())}).split('\n')
    assert 'Slice protocol, 6 subjects' in lines[0] and 'oracle' in lines[0]
    table = [[c.strip() for c in line.split('|')[1:-1]] for line in lines[2:]]
    assert len({len(t) for t in table}) == 1 and [t[0] for t in table] == ['detector', '---', 'floor', 'A', 'no threshold']
    m = r['summary']['ap']
    assert table[3][table[0].index('AP')] == f"{m['mean']:.2f} [{m['low']:.2f}, {m['high']:.2f}]" and table[4][1] == '-'


def test_different_protocols_do_not_share_a_table():
    a, b, c = S.score_subjects(cohort()), S.score_subjects(cohort(), protocol='volume'), S.score_subjects(cohort()[:3])
    for other in (b, c):
        with pytest.raises(ValueError, match='cannot share a table'): S.format_table({'a': a, 'b': other})


# ---- bad input: one plain sentence

V = np.ones((3, 3, 3))
BAD = {
    'shape': (lambda: S.dice(np.ones(3), np.ones((3, 1))), r'\(3,\) and \(3, 1\)'),
    'labels': (lambda: S.dice([0, 2], [0, 1]), 'holds 2'),
    'nan mask': (lambda: S.dice([0, 1], [0, np.nan]), 'truth must hold 0 and 1 only, but it holds nan'),
    'no pixels': (lambda: S.dice([], []), 'no pixels'),
    'nan score': (lambda: S.auroc([0, np.nan, np.inf], [0, 1, 1]), '2 of 3 values'),
    'score shape': (lambda: S.average_precision(np.ones(3), np.ones(4)), 'one shape'),
    'oracle of none': (lambda: S.best_threshold([], []), 'at least one'),
    'oracle of unequal lists': (lambda: S.best_threshold([V], []), '1 and 0'),
    'bootstrap of none': (lambda: S.bootstrap_interval([]), 'finite numbers'),
    'bootstrap of nan': (lambda: S.bootstrap_interval([1, np.nan]), 'finite numbers'),
    'bootstrap level': (lambda: S.bootstrap_interval([1, 2], level=95), '0 < level < 1'),
    'nan in the brain': (lambda: S.volume_protocol(V * np.nan, V, V), 'finite'),
    'volumes differ': (lambda: S.volume_protocol(V, V[:2], V), r'\(2, 3, 3\)'),
    'a slice, no volume': (lambda: S.slice_protocol(V[0], V[0], V[0]), 'x y z'),
    'no brain': (lambda: S.volume_protocol(V, V, 0 * V), 'brain mask is empty'),
    'no such slice': (lambda: S.slice_protocol(V, V, V), 'slices 0 to 2'),
    'no slices': (lambda: S.slice_protocol(V, V, V, []), 'slices 0 to 2'),
    'no brain in the slices': (lambda: S.slice_protocol(V, 0 * V, np.eye(3)[0] * V, [2]), 'holds no brain'),
    'no subjects': (lambda: S.score_subjects([]), 'no subjects'),
    'protocol': (lambda: S.score_subjects(cohort(), protocol='patch'), "'patch'"),
    'threshold': (lambda: S.score_subjects(cohort(), float('nan')), 'finite or None'),
    'no results': (lambda: S.format_table({}), 'no results'),
}


@pytest.mark.parametrize('what', BAD)
def test_bad_input_is_refused_in_one_sentence(what):
    call, words = BAD[what]
    with pytest.raises(ValueError, match=words) as e: call()
    assert '\n' not in str(e.value) and len(str(e.value)) < 250


# ---- real patients (not in the repository)

@pytest.mark.skipif(not REAL.is_dir(), reason='the real patients are not at hand (../shared/real)')
@pytest.mark.parametrize('modality, sign, oracle, ap', [('flair', 1, .73, .81), ('t2', 1, .47, .42), ('t1', -1, .28, .19)])
def test_plain_threshold_on_real_patients(modality, sign, oracle, ap):
    "Eight tumour patients, slice protocol, each scaled by the median and interquartile range of its own volume, T1 taken as dark."
    import nibabel
    subjects = []
    for folder in sorted(REAL.iterdir()):
        load = lambda what: np.asarray(nibabel.load(folder/f'{folder.name}_{what}.nii.gz').dataobj, np.float32)
        v, lesion = load(modality), load('seg') > 0
        low, median, high = np.percentile(v[v > 0], (25, 50, 75))
        subjects.append((folder.name, *S.slice_protocol(sign * (v - median) / (high - low), lesion, v > 0)))
    found = S.score_subjects(subjects)['summary']
    floor = S.score_subjects(S.everything_positive(subjects))['summary']
    assert found['ap']['n'] == 8
    assert found['dice_oracle']['mean'] == pytest.approx(oracle, abs=.02) and found['ap']['mean'] == pytest.approx(ap, abs=.02)
    assert floor['dice_oracle']['mean'] == pytest.approx(.26, abs=.02) and floor['ap']['mean'] == pytest.approx(.16, abs=.02)
