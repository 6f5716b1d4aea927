"The Cyclic U-Net: what comes back, and what is kept of it. The packaged ones too."

import json
from dataclasses import asdict, replace

import pytest
import torch
from detector_laws import check_detector, maps, toy_slices
from toy_data import Toy

from mmccd.cycle import CyclicUNet, CyclicUNetConfig
from mmccd.detector import Detector, load_detector, save_detector, save_variants
from mmccd.registry import new_detector
from mmccd.runtime import single_thread
from mmccd.translate import Translator, directed_pairs, fill_background, translation_loss
from mmccd.unet import UNetConfig, preset
from mmccd.weights.hub import WEIGHTS, packaged

SMALL = UNetConfig(size=32, channels=8, mults=(1, 2), blocks=1, attention=(16,), heads=2)
THREE = ("flair", "t1", "t2")
KINDS = {"two networks": (), "shared": THREE}
CYCLES = [f"cycle-{a}-{b}" for a, b in directed_pairs(THREE)]


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


def awake(modalities=(), seed=0, input="flair", target="t2", unet=SMALL):
    "No weight is zero any more: a new network says 0 everywhere."
    d, g = (
        CyclicUNet(input=input, target=target, size=unet.size, modalities=modalities, unet=unet),
        torch.Generator().manual_seed(seed),
    )
    for p in d.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=g)
    return d.eval()


# ---- the detector
@pytest.mark.parametrize("kind", KINDS)
def test_properties(kind, tmp_path):
    check_detector(awake(KINDS[kind]), tmp_path / "d")


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_translator_finds_nothing(kind, monkeypatch):
    batch = Toy(3).d

    def perfect(self, x, brain, source, target):
        assert torch.equal(x, batch[source])  # there with the input, back with what came of it
        return batch[target]

    monkeypatch.setattr(Translator, "forward", perfect)
    for pair in (("flair", "t2"), ("t2", "flair")):
        d = awake(KINDS[kind], input=pair[0], target=pair[1])
        assert not maps(d, batch[pair[0]], batch["brain"]).any()
        assert torch.equal(d.translate(batch[pair[0]], batch["brain"]), batch[pair[1]])
        assert torch.equal(d.translate_back(batch[pair[1]], batch["brain"]), batch[pair[0]])


def test_only_what_does_not_return_counts(monkeypatch):
    "The first translation loses an unknown spot, the second cannot restore it: the map is its square."
    batch = Toy(2).d
    x = batch["flair"].clone()
    x[:, :, 14:18, 14:18] += 2
    monkeypatch.setattr(Translator, "forward", lambda self, given, brain, source, target: batch[target])
    a = maps(awake(), x, batch["brain"])
    assert torch.allclose(a[:, :, 14:18, 14:18], torch.tensor(4.0))
    assert a.sum() == pytest.approx(4 * 32, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_background_has_no_influence(kind):
    d, b = awake(KINDS[kind]), Toy(2).d
    wild = torch.where(b["brain"], b["flair"], 9.0)
    assert torch.equal(maps(d, wild, b["brain"]), maps(d, b["flair"], b["brain"]))
    assert torch.equal(d.translate(wild, b["brain"]), d.translate(b["flair"], b["brain"]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_needed_to_learn_only(kind):
    d, b = awake(KINDS[kind]), Toy(4).d

    def g():
        return torch.Generator().manual_seed(0)

    assert torch.equal(d.loss(b, g()), translation_loss(d.translator, b, g()))
    other = b | {"t2": fill_background(b["t2"] + 1, b["brain"])}
    assert not torch.equal(d.loss(other, g()), d.loss(b, g()))


# ---- config
@pytest.mark.parametrize(
    "fields",
    [
        dict(),
        dict(modalities=("t2", "flair", "t1"), input="t1"),
        dict(unet="paper", size=128),
        dict(unet=replace(SMALL, dropout=0.1), size=32, modalities=["t2", "flair"]),
    ],
)
def test_config_through_json(fields):
    c = CyclicUNetConfig(**fields)
    again = CyclicUNetConfig(**json.loads(json.dumps(asdict(c))))
    assert again == c
    assert hash(again) == hash(c)
    assert isinstance(again.unet, UNetConfig)
    assert isinstance(again.modalities, tuple)
    assert c.unet.size == c.size
    assert c.unet.labels == len(c.modalities) * (len(c.modalities) - 1)


def test_sizes_by_name():
    assert CyclicUNetConfig().unet == preset("tiny")
    assert CyclicUNetConfig(unet="paper", size=128).unet == preset("paper")
    assert CyclicUNetConfig(unet="paper").unet == preset("paper", size=64)


@pytest.mark.parametrize(
    ("fields", "say"),
    [
        (dict(size=60), "size must be a multiple of 8 .* got 60"),
        (dict(input="t2"), "input and target are both t2: choose two modalities"),
        (dict(modalities=("t1", "t2")), "flair is not among the modalities of the network, t1, t2"),
        (dict(modalities=("flair",)), "t2 is not among the modalities of the network, flair"),
        (dict(modalities=("flair", "t1")), "t2 is not among the modalities of the network"),
        (dict(modalities=("flair", "t2", "t2")), "two or more different modalities, got flair, t2, t2"),
        (dict(unet="huge"), "unknown size 'huge': choose paper or tiny"),
        (dict(normalisation="odd"), "odd"),
    ],
)
def test_config_refuses(fields, say):
    with pytest.raises(ValueError, match=say) as e:
        CyclicUNet(**fields)
    assert "\n" not in str(e.value)


def test_slices_of_another_size():
    with pytest.raises(ValueError, match="must be 1 x 32 x 32, got 1 x 16 x 16"):
        maps(awake(), *toy_slices(1, 16, 16))


# ---- other ways
@pytest.mark.parametrize("kind", KINDS)
def test_another_pair_of_the_same_networks(kind, tmp_path):
    "Kept, loaded, turned round, kept, loaded: the same maps bit for bit, and so after turning round twice."
    d, b = awake(KINDS[kind]), Toy(2).d
    d.calibration = {"threshold": 0.5}
    one = load_detector(save_detector(d, tmp_path / "one"))
    turned = one.for_pair("t2", "flair")
    assert turned.calibration is None
    assert not turned.training
    assert (turned.config.input, turned.config.target) == ("t2", "flair")
    two = load_detector(save_detector(turned, tmp_path / "two"))
    assert torch.equal(maps(two, b["t2"], b["brain"]), maps(d.for_pair("t2", "flair"), b["t2"], b["brain"]))
    assert torch.equal(maps(two.for_pair("flair", "t2"), b["flair"], b["brain"]), maps(d, b["flair"], b["brain"]))
    assert torch.equal(two.translate(b["t2"], b["brain"]), d.translate_back(b["t2"], b["brain"]))
    assert torch.equal(two.translate_back(b["flair"], b["brain"]), d.translate(b["flair"], b["brain"]))
    assert not torch.equal(maps(two, b["flair"], b["brain"]), maps(d, b["flair"], b["brain"]))
    next(two.parameters()).data += 1
    assert torch.equal(
        maps(one, b["flair"], b["brain"]), maps(d, b["flair"], b["brain"])
    )  # they share nothing in memory


def test_the_order_of_the_modalities_makes_no_difference():
    b = Toy(2).d
    a, c = awake(("t2", "t1", "flair")), awake(THREE)
    assert torch.equal(maps(a, b["flair"], b["brain"]), maps(c, b["flair"], b["brain"]))


@pytest.mark.parametrize(
    ("modalities", "pair", "word"),
    [
        (THREE, ("flair", "t1ce"), "t1ce"),
        (THREE, ("t1ce", "flair"), "t1ce"),
        (THREE, ("t1", "t1"), "from t1 to t1"),
        ((), ("flair", "t1"), "t1"),
        ((), ("t1", "t1ce"), "t1"),
    ],
)
def test_a_pair_that_was_not_learned(modalities, pair, word):
    "Two networks for FLAIR and T2 must not pass for networks for T1."
    with pytest.raises(ValueError, match=word):
        awake(modalities).for_pair(*pair)


def test_tensors_shared_by_several(tmp_path):
    d, b = awake(THREE), Toy(2).d
    d.load_state_dict({k: v.half().float() for k, v in d.state_dict().items()})
    save_variants({"-".join(pair): d.for_pair(*pair) for pair in d.translator.pairs}, tmp_path, half=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for x, y in d.translator.pairs:
        again = load_detector(tmp_path, variant=f"{x}-{y}")
        assert torch.equal(maps(again, b[x], b["brain"]), maps(d.for_pair(x, y), b[x], b["brain"]))


# ---- first weights
def start():
    return new_detector("cycle", 0, input="flair", target="t2", modalities=THREE, size=32, unet=SMALL)


def test_first_weights_are_a_function_of_the_seed():
    kept = {s: new_detector("cycle", s, modalities=THREE, size=32, unet=SMALL).state_dict() for s in (0, 1)}
    assert all(torch.equal(v, kept[0][k]) for k, v in start().state_dict().items())
    assert any(not torch.equal(v, kept[1][k]) for k, v in kept[0].items())


# ---- the packaged ones
def test_there_are_six():
    assert [n for n in packaged() if n.startswith("cycle")] == CYCLES


@pytest.mark.parametrize("name", CYCLES)
def test_packaged(name):
    d, (_, x, y) = Detector.from_pretrained(name), name.split("-")
    assert type(d) is CyclicUNet
    assert (d.config.input, d.config.target, d.config.size, d.config.modalities) == (
        x,
        y,
        64,
        THREE,
    )
    slices, brain = toy_slices(2, 64, 64)
    a = maps(d, slices, brain)
    assert a.isfinite().all()
    assert a[brain].unique().numel() > 1000
    assert not a[~brain].any()
    assert 0 < d.threshold < 10
    assert d.calibration["fpr"] == 0.01
    assert 0 <= d.calibration["fpr_reached"] <= 0.01


@pytest.mark.parametrize("name", CYCLES)
def test_packaged_threshold_says_where_it_comes_from(name):
    c = load_detector(name).calibration
    assert {"threshold", "fpr", "pixels", "slices", "subjects", "fpr_of_subjects", "data", "date"} <= set(c)
    assert "all tumour-free" in c["data"]
    assert "phantom" in c["data"]
    assert c["subjects"] >= 3


def test_packaged_tensors_are_shared():
    from safetensors.torch import load

    content = (WEIGHTS / "cycle/model.safetensors").read_bytes()
    assert {str(v.dtype) for v in load(content).values()} == {"torch.float16"}
    assert all(v.isfinite().all() for v in load(content).values())


def test_packaged_pairs_are_one_network():
    d = Detector.from_pretrained(CYCLES[0])
    for name in CYCLES:
        other, turned = Detector.from_pretrained(name), d.for_pair(*name.split("-")[1:])
        assert other.config == turned.config
        assert all(torch.equal(v, turned.state_dict()[k]) for k, v in other.state_dict().items())


def test_packaged_with_a_card():
    text = (WEIGHTS / "cycle/README.md").read_text()
    assert "not a medical device" in text
    assert "(curve.png)" in text
    assert (WEIGHTS / "cycle/curve.png").read_bytes().startswith(b"\x89PNG")


def test_weights_are_small():
    assert sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file()) <= 24 * 2**20
