from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from detector_laws import LAWS, Tiny, TinyConfig, check_detector, maps, toy_slices
from hypothesis import given, settings
from hypothesis import strategies as st

from mmccd.detector import SIGNS, Detector, EverythingPositive, Threshold, calibrate, healthy_threshold


@pytest.mark.parametrize(
    "make", [Threshold, lambda: Threshold(input="t1"), lambda: Threshold(input="t2"), Tiny, lambda: Tiny(width=2)]
)
def test_laws(make, tmp_path):
    check_detector(make(), tmp_path / "d")


def test_laws_of_the_floor(tmp_path):
    check_detector(EverythingPositive(), tmp_path / "d", calibrates=False)


# The laws must notice what they are for: each of these breaks one.
class Broken(Detector):
    Config = TinyConfig


class Negative(Broken):
    def score(self, x, brain, generator=None):
        return x


class MinMax(Broken):
    def score(self, x, brain, generator=None):
        return (x - x.min()) / (x.max() - x.min())


class Careless(Broken):
    def score(self, x, brain, generator=None):
        return torch.rand(x.shape)


class NoisePerBatch(Broken):
    def score(self, x, brain, generator=None):
        return torch.rand(x.shape, generator=generator)


class Overwrites(Broken):
    def score(self, x, brain, generator=None):
        return x.abs_()


class Leaks(Broken):
    def anomaly_map(self, x, brain=None, generator=None):
        return x.abs()


class Silent(Broken):
    def score(self, x, brain, generator=None):
        return torch.zeros_like(x)


@pytest.mark.parametrize("cls", [Negative, MinMax, Careless, NoisePerBatch, Overwrites, Leaks, Silent])
def test_laws_catch(cls):
    x, brain = toy_slices()

    def kept(law):
        try:
            law(cls(), x.clone(), brain.clone())
        except (AssertionError, RuntimeError):
            return False
        return True

    assert not all(kept(law) for law in LAWS)


def test_sign_and_scale():
    x, brain = toy_slices()
    bright, dark = maps(Threshold(input="t2"), x, brain)[brain], maps(Threshold(input="t1"), x, brain)[brain]
    order = x[brain].argsort()
    assert (bright[order].diff() >= 0).all()
    assert (dark[order].diff() <= 0).all()
    torch.testing.assert_close(bright, torch.log1p(torch.exp(3 * x[brain])), rtol=1e-5, atol=1e-6)
    assert torch.equal(maps(Threshold(input="t2"), x, brain), maps(Threshold(input="t1", sign=1), x, brain))
    assert {m: Threshold(input=m).config.sign for m in SIGNS} == {"flair": 1, "t1": -1, "t1ce": 1, "t2": 1}


@pytest.mark.parametrize(("fields", "word"), [({"input": "pd"}, "'pd'"), ({"sign": 0}, "0"), ({"sign": 2.5}, "2.5")])
def test_config_refuses(fields, word):
    with pytest.raises(ValueError, match=word):
        Threshold(**fields)


def test_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Threshold().config.input = "t2"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.floats(0.001, 0.999))
def test_threshold_is_the_smallest_that_keeps_the_rate(values, fpr):
    v = torch.tensor(values, dtype=torch.float32)
    h = healthy_threshold(v, fpr)
    assert h in values
    assert (v > h).double().mean() <= fpr
    lower = [u for u in values if u < h]
    if lower:
        assert (v > max(lower)).sum() > int(fpr * len(v))


@pytest.mark.parametrize("fpr", [0, 1, -0.1, 2, float("nan")])
def test_impossible_rates(fpr):
    with pytest.raises(ValueError, match="between 0 and 1"):
        healthy_threshold(torch.rand(9), fpr)


def test_calibrate_nothing():
    x, brain = toy_slices()
    with pytest.raises(ValueError, match="no healthy brain pixel"):
        calibrate(Threshold(), x, torch.zeros_like(brain))
    with pytest.raises(ValueError, match="no threshold yet"):
        Threshold().segment(x)
    with pytest.raises(ValueError, match="nothing to train"):
        Threshold().loss({"flair": x})


def test_calibration_ignores_the_batch_size_and_the_outside():
    x, brain = toy_slices(b=7)
    a, b = (calibrate(Threshold(), x, brain, batch_size=k).calibration for k in (1, 16))
    wild = torch.where(brain, x, torch.full_like(x, 99.0))
    assert a == b == calibrate(Threshold(), wild, brain).calibration
    assert a["pixels"] == brain.sum()
    assert a["slices"] == 7
    assert a["fpr_reached"] <= 0.01


def test_floor():
    x, brain = toy_slices()
    assert torch.equal(EverythingPositive().segment(maps(EverythingPositive(), x, brain)), brain)


@pytest.mark.parametrize("modality", SIGNS)
def test_packaged_thresholds(modality):
    d = Detector.from_pretrained(f"threshold-{modality}")
    assert type(d) is Threshold
    assert d.config.input == modality
    assert d.calibration["fpr"] == 0.01
    assert {"seed", "phantom", "date", "subjects", "version"} <= set(d.calibration)
    assert "phantom" in d.calibration["data"]
    assert 0 < d.threshold < 10
    assert np.isfinite(d.threshold)


def test_a_diverged_network_is_refused():
    "NaN is above no threshold: without a word, a broken detector would find nothing."

    class Diverged(Threshold):
        def score(self, x, brain, generator=None):
            return x / 0 * 0

    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="diverged"):
        Diverged().anomaly_map(x, torch.ones_like(x) > 0)
