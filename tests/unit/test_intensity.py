"Normalisation: definitions, properties, the published one against its own numbers, and what the comparison claims."

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mmccd.intensity import (
    DEFAULT,
    LANDMARKS,
    METHODS,
    bend,
    landmarks,
    learn_landmarks,
    median_iqr,
    normalise,
    published,
    tissue_peak,
    tukey,
    white_stripe,
)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "paper_protocol.npz"


def brain_values(seed=0, n=20_000, gain=1.0, offset=0.0):
    "Two tissues and some fluid."
    rng = np.random.default_rng(seed)
    parts = rng.normal(300, 20, int(0.45 * n)), rng.normal(400, 25, int(0.45 * n)), rng.normal(80, 20, int(0.1 * n))
    return gain * np.concatenate(parts) + offset


@pytest.fixture(scope="module")
def head():
    brain = np.zeros((30, 30, 30), bool)
    brain[3:27, 3:27, 3:27] = True
    volume = np.zeros(brain.shape, np.float32)
    volume[brain] = brain_values(n=brain.sum() + 10)[: brain.sum()]
    return volume, brain


def test_median_iqr_is_the_definition():
    v = brain_values()
    low, centre, high = np.quantile(v, [0.25, 0.5, 0.75])
    assert_allclose(median_iqr(v), (centre, 3 * (high - low)))


def test_tukey_ends_with_no_voxel_outside_its_fences():
    v = np.r_[brain_values(), np.full(1500, 900.0)]
    centre, half = tukey(v)
    inside = np.sort(v)
    for _ in range(100):  # the definition, one step at a time
        a, b = np.quantile(inside, [0.25, 0.75], method="nearest")
        keep = inside[(inside >= a - 1.5 * (b - a)) & (inside <= b + 1.5 * (b - a))]
        if len(keep) == len(inside):
            break
        inside = keep
    assert len(inside) < len(v)
    assert_allclose((centre, half), (np.median(inside), 3 * (b - a)), rtol=1e-3)
    assert not (inside >= 900).any()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8, deadline=None)
@given(gain=st.floats(0.01, 100), offset=st.floats(-1000, 1000), seed=st.integers(0, 5))
def test_gain_and_offset_cancel(method, gain, offset, seed):
    v = brain_values(seed, 4000)
    for m in ("flair", "t1"):
        (c, s), (c1, s1) = METHODS[method](v, m), METHODS[method](gain * v + offset, m)
        assert_allclose((v - c) / s, (gain * v + offset - c1) / s1, atol=1e-6)


def test_a_lesion_far_from_tissue_leaves_tukey_where_it_was():
    v = brain_values()
    c, s = tukey(v)
    for share in (0.02, 0.1, 0.2):
        c1, s1 = tukey(np.r_[v, np.full(int(share * len(v)), 1500.0)])
        assert abs(c1 - c) / s < 0.01
        assert abs(s1 / s - 1) < 0.01
        assert abs(median_iqr(np.r_[v, np.full(int(share * len(v)), 1500.0)])[0] - median_iqr(v)[0]) > abs(c1 - c)


def test_which_peak_is_white_matter():
    v = np.r_[brain_values(), np.random.default_rng(1).normal(300, 20, 3000)]  # the darker tissue is the larger one
    assert abs(tissue_peak(v, "flair") - 300) < 8
    assert abs(tissue_peak(v, "t1") - 400) < 8
    assert abs(white_stripe(v, "t1")[0] - 400) < 8


def test_nyul_puts_the_landmarks_where_they_were_learned():
    people = [brain_values(s, gain=1 + s, offset=30 * s) for s in range(4)]
    standard = learn_landmarks(people)
    assert (np.diff(standard) > 0).all()
    assert len(standard) == len(LANDMARKS)
    for v in people:
        new = bend(v, landmarks(v), standard)
        assert_allclose(landmarks(new), standard, atol=1e-2)
        assert (np.diff(new[np.argsort(v)]) >= -1e-9).all()  # never swaps two voxels
    beyond = bend(np.array([1e4, 2e4, 3e4]), landmarks(people[0]), standard)
    assert_allclose(beyond[2] - beyond[1], beyond[1] - beyond[0])  # straight on


@pytest.mark.parametrize("method", [*METHODS, "published"])
def test_normalise(head, method):
    volume, brain = head
    n = normalise(volume, brain, method)
    assert n.dtype == np.float32
    assert n.shape == volume.shape
    assert np.isfinite(n).all()
    assert (n[~brain] == (-3 if method == "published" else -1)).all()
    if method != "published":
        centre, half = METHODS[method](volume[brain])
        assert_allclose(n[brain], (volume[brain] - centre) / half, atol=1e-5)
        assert_array_equal(n, normalise(np.where(brain, volume, -1e5), brain, method))


def test_default(head):
    assert_array_equal(normalise(*head), normalise(*head, DEFAULT))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_any_dtype(head, dtype):
    volume, brain = head
    v = (volume / 3).astype(dtype)
    for method in METHODS:
        assert_allclose(normalise(v, brain, method), normalise(v.astype(np.float32), brain, method), atol=1e-5)


@pytest.mark.parametrize(
    ("volume", "brain", "method", "words"),
    [
        (
            np.ones((3, 3, 3)),
            np.zeros((3, 3, 3), bool),
            "tukey",
            ("Cannot normalise flair of p", "brain mask is empty"),
        ),
        (np.ones((3, 3, 3)), np.ones((3, 3, 3), bool), "tukey", ("Cannot normalise flair of p", "has the value 1")),
        (np.ones((3, 3, 3)), np.ones((3, 3, 3), bool), "median_iqr", ("has the value 1",)),
        (np.ones((3, 3, 3)), np.ones((3, 3, 3), bool), "published", ("has the value 1",)),
        (np.arange(27.0).reshape(3, 3, 3), np.ones((3, 3, 3), bool), "zscore", ("'zscore'", "tukey", "published")),
    ],
)
def test_one_sentence(volume, brain, method, words):
    with pytest.raises(ValueError) as error:
        normalise(volume, brain, method, "flair of p")
    text = str(error.value)
    assert all(w in text for w in words)
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.skipif(not GOLDEN.exists(), reason="the published implementation's numbers are not here")
def test_published_is_what_the_original_computed():
    golden = np.load(GOLDEN)
    volume = golden["norm_in"]
    assert_allclose(published(volume), golden["norm_out"], rtol=1e-5, atol=1e-5)
    assert_allclose(normalise(volume, volume > 0, "published"), golden["norm_out"], rtol=1e-5, atol=1e-5)


def test_the_default_is_what_the_record_says():
    record = json.loads((ROOT / "data" / "results" / "normalisation.json").read_text())
    rows = record["methods"]
    assert set(rows) == {*METHODS, "nyul", "published"}
    straight = {k: v["displacement"] for k, v in rows.items() if k != "nyul"}
    assert min(straight, key=straight.get) == DEFAULT
    assert rows[DEFAULT]["shift"] < rows["median_iqr"]["shift"] < rows["percentiles"]["shift"]
    assert rows["nyul"]["dice_flair"] < rows[DEFAULT]["dice_flair"]  # why it is not the default
