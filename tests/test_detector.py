import hashlib
import json
import os
import pickle
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest
import torch
from detector_laws import LAWS, check_detector, maps, toy_slices
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_cases import tree

import mmccd.detector as detector_module
from mmccd.detector import (
    SIGNS,
    Detector,
    EverythingPositive,
    Threshold,
    calibrate,
    fingerprint,
    healthy_threshold,
    load_detector,
    save_detector,
)
from mmccd.files import write_atomic
from mmccd.weights.hub import find_weights, packaged


@dataclass(frozen=True)
class TinyConfig:
    width: int = 4


class Tiny(Detector):  # with weights, noise and dropout: what later detectors will be made of
    Config = TinyConfig

    def __init__(self, config=None, **kwargs):
        super().__init__(config, **kwargs)
        g = torch.Generator().manual_seed(1)
        self.net = nn.Sequential(
            nn.Conv2d(1, self.config.width, 3, padding=1),
            nn.Dropout(0.5),
            nn.Conv2d(self.config.width, 1, 3, padding=1),
        )
        for p in self.net.parameters():
            p.data = torch.randn(p.shape, generator=g)

    def score(self, x, brain, generator=None):
        noise = torch.randn(1, *x.shape[1:], generator=generator, device=x.device)  # one slice's noise for all slices
        return (self.net(x + 0.1 * noise) - x) ** 2


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


# ------------------------------------------------------------------------------------------------ save and load
def saved(tmp_path, detector=None):
    x, brain = toy_slices()
    return calibrate(detector or Tiny(), x, brain, data="toy").save_pretrained(tmp_path / "d")


def test_weights_change_the_fingerprint(tmp_path):
    d = load_detector(saved(tmp_path))
    before = fingerprint(d)
    next(d.parameters()).data += 1e-3
    assert fingerprint(d) != before


def test_saving_again_replaces(tmp_path):
    folder = saved(tmp_path)
    Threshold(input="t2").save_pretrained(folder)
    assert load_detector(folder).config.input == "t2"


def test_never_unpickles(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    folder = saved(tmp_path)
    evil = pickle.dumps(Evil())
    (folder / "model.safetensors").write_bytes(evil)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sha256": hashlib.sha256(evil).hexdigest()}))
    with pytest.raises(ValueError, match="cannot load"):
        load_detector(folder)
    assert not (tmp_path / "owned").exists()


def test_only_this_package_is_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = saved(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"detector": "Nobody", "module": "evil_module"}))
    with pytest.raises(ValueError, match="unknown detector 'Nobody'"):
        load_detector(folder)


def change(**fields):
    def f(folder):
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | fields))

    return f


def truncate(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])


DAMAGE = [
    truncate,
    change(config={"width": 8}),
    change(config={"depth": 3}),
    change(config=None),
    change(config={"width": "wide"}),
    change(module="mmccd.nothing", detector="Nobody"),
    lambda f: (f / "config.json").write_text("{not json"),
    lambda f: (f / "config.json").write_text("[]"),
    lambda f: (f / "config.json").write_text("{}"),
    lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
    lambda f: (f / "model.safetensors").unlink(),
    change(tensors="nowhere"),
    change(tensors=5),
    change(tensors=None),
    change(tensors="../../../nowhere"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders(tmp_path, damage):
    folder = saved(tmp_path)
    damage(folder)
    with pytest.raises(ValueError) as e:
        load_detector(folder)
    assert str(folder) in str(e.value)
    assert "\n" not in str(e.value)


def shared(tmp_path, **fields):
    "Two detectors of one network, in float16."
    for i, name in enumerate("ab"):
        d = Tiny(**fields)
        d.calibration = {"threshold": float(i), "fpr": 0.01}
        save_detector(d, tmp_path / name, half=True, beside="all")
    return d


def test_float16_and_shared_tensors(tmp_path):
    d = shared(tmp_path)
    assert sorted(tree(tmp_path)) == ["a", "a/config.json", "all", "all/model.safetensors", "b", "b/config.json"]
    for i, name in enumerate("ab"):
        again = load_detector(tmp_path / name)
        assert again.threshold == i
        assert all(
            v.dtype == torch.float32 and torch.equal(v, d.state_dict()[k].half().float())
            for k, v in again.state_dict().items()
        )
    assert not all(torch.equal(v, v.half().float()) for v in d.state_dict().values())  # float16 did round
    again.calibration = {"threshold": 7.0}
    assert fingerprint(load_detector(save_detector(again, tmp_path / "full"))) == fingerprint(
        again
    )  # and rounds no second time


def test_all_that_share_notice_other_tensors(tmp_path):
    shared(tmp_path)
    save_detector(Tiny(width=2), tmp_path / "c", half=True, beside="all")
    for name in "ab":
        with pytest.raises(
            ValueError, match=f"cannot load the detector in {tmp_path / name}: its two files do not belong together"
        ):
            load_detector(tmp_path / name)
    (tmp_path / "all/model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors cannot be read; copy the weights again") as e:
        load_detector(tmp_path / "c")
    assert "\n" not in str(e.value)


def test_a_stored_name_leads_nowhere_else(tmp_path):
    "Tensors are taken from a neighbouring folder, never from a path."
    (tmp_path / "deep").mkdir()
    shared(tmp_path / "deep")
    (tmp_path / "deep/all").rename(tmp_path / "secret")
    change(tensors="../secret")(tmp_path / "deep/a")
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        load_detector(tmp_path / "deep/a")
    (tmp_path / "secret").rename(tmp_path / "deep/secret")
    assert load_detector(tmp_path / "deep/a").threshold == 0


def test_wrong_class(tmp_path):
    with pytest.raises(ValueError, match="not a Threshold"):
        Threshold.from_pretrained(saved(tmp_path))
    assert isinstance(Tiny.from_pretrained(tmp_path / "d"), Tiny)


def test_names(tmp_path, monkeypatch):
    monkeypatch.setattr(detector_module, "WEIGHTS", tmp_path / "weights")
    Threshold().save_pretrained(tmp_path / "weights" / "threshold-flair")
    assert packaged() == ["threshold-flair"]
    assert load_detector("threshold-flair").config.input == "flair"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, words in [
        ("treshold", "one of threshold-flair"),
        (tmp_path / "empty", "config.json is missing"),
        (tmp_path / "file", "is a file"),
        ("/no/such/folder", "unknown weights"),
        ("./no", "unknown weights"),
        ("~/no", "unknown weights"),
        ("no/", "unknown weights"),
    ]:
        with pytest.raises(ValueError, match=words):
            find_weights(name)


def test_hub(tmp_path, monkeypatch):
    import huggingface_hub

    folder, asked = saved(tmp_path, Threshold()), []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **kw: asked.append((name, kw)) or str(folder)
    )
    assert Detector.from_pretrained("somebody/something").calibration == load_detector(folder).calibration
    assert asked == [("somebody/something", {"allow_patterns": ["config.json", "model.safetensors"]})]

    def fails(name, **kw):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(ValueError, match="the hub could not give it"):
        Detector.from_pretrained("somebody/something")


def test_save_refuses_a_file(tmp_path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        Threshold().save_pretrained(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "mine"


def test_interrupted_write(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "a", b"old")

    def broken(a, b):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


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
    Detector.registry.pop("Diverged")
