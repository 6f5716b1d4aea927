"MMCCD: its definition written out a second time, the properties of every detector, its options, and the packaged ones."

import json
from dataclasses import asdict, replace

import pytest
import torch
from detector_laws import check_detector, maps, toy_slices
from toy_data import Toy

import mmccd.masked_translation as mt
from mmccd.cycle import CyclicUNet
from mmccd.detector import calibrate, fingerprint, load_detector
from mmccd.diffusion import Step, time_steps
from mmccd.error_normalisation import fit_healthy_mean
from mmccd.masked_diffusion import (
    MMCCD,
    MaskedUNet,
    MMCCDConfig,
    load_frozen_decoder,
    with_config,
)
from mmccd.masked_translation import IMAGINATIONS, SAMPLERS, Sampler, fixed_noises, masked_translation_loss
from mmccd.masking import MASKS, MaskPlan, pool, strip
from mmccd.registry import new_detector
from mmccd.runtime import single_thread
from mmccd.training_loop import TrainConfig, validate
from mmccd.translate import directed_pairs, fill_background
from mmccd.unet import UNetConfig
from mmccd.weights.hub import packaged

SMALL = UNetConfig(size=32, channels=8, mults=(1, 2), blocks=1, attention=(16,), heads=2)
THREE = ("flair", "t1", "t2")
KINDS = [(cls, modalities) for cls in (MMCCD, MaskedUNet) for modalities in ((), THREE)]
named = pytest.mark.parametrize(
    ("cls", "modalities"), KINDS, ids=lambda v: v.__name__ if isinstance(v, type) else "shared" if v else "own pair"
)


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


def awake(cls=MMCCD, modalities=(), seed=0, **config):
    "A detector without zero weights: a new network predicts 0 everywhere."
    d, g = cls(**dict(size=32, modalities=modalities, unet=SMALL) | config), torch.Generator().manual_seed(seed)
    for p in d.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=g)
    return d.eval()


# ---- the detector
@pytest.mark.parametrize(("cls", "modalities"), [(MMCCD, ()), (MaskedUNet, THREE)])
def test_properties(cls, modalities, tmp_path):
    check_detector(awake(cls, modalities, sampler=Sampler(width=16, n_strips=2, steps=2)), tmp_path / "d")


def test_properties_with_all_options(tmp_path):
    d = awake(
        MMCCD,
        THREE,
        sampler=Sampler(width=16, n_strips=2, steps=2, eta=1.0, pooling="median"),
        normalise_by="healthy_mean",
        extra_targets=("t1",),
    )
    for name in ("flair", "t1"):
        fit_healthy_mean(d.for_pair("t2", name), *toy_slices(4))  # a copy: d stays as it was
    assert (d.healthy_mean == 1).all()
    check_detector(d, tmp_path / "d")


@torch.no_grad()
def by_the_book(d, x, brain, masks, steps, seed=0):
    "The definitions (1), (5) and (6) of the method, one mask and one step at a time, on one slice."
    start, eps_c, _ = fixed_noises(d.config.size, "cpu", torch.Generator().manual_seed(seed))
    x, total, count = torch.where(brain, x, -1.0), torch.zeros_like(x), torch.zeros_like(x)
    abar, times = d.f.abar.double(), [k * (1000 // steps) for k in reversed(range(steps))]
    for m in masks[:, None].float():
        cond, y_t = (1 - m) * x + m * eps_c, start
        for t in times:
            y0 = torch.where(brain, d.f.net(torch.cat([y_t, cond], 1), torch.tensor([t]), d.label(1)), -1.0)
            eps = (y_t - abar[t].sqrt() * y0) / (1 - abar[t]).sqrt()
            before = abar[t - 1000 // steps] if t else torch.tensor(1.0, dtype=torch.double)
            y_t = (before.sqrt() * y0 + (1 - before).sqrt() * eps).float()
        back = (
            d.g(y_t, brain, d.config.target, d.config.input)
            if d.config.modalities
            else torch.where(brain, d.g(y_t), -1.0)
        )
        total, count = total + m * (back - x) ** 2, count + m
    return torch.where(brain, total / count, 0.0)


@pytest.mark.parametrize("modalities", [(), THREE])
def test_paper_is_the_definition(modalities):
    x, brain = toy_slices(2)
    d = awake(modalities=modalities, sampler=replace(SAMPLERS["paper"], steps=5, step=4))
    wanted = torch.cat(
        [by_the_book(d, x[k : k + 1], brain[k : k + 1], MASKS["published"](32, 4, 4), 5, seed=3) for k in (0, 1)]
    )
    torch.testing.assert_close(maps(d, x, brain, seed=3), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(maps(d, x, brain, seed=4), wanted, rtol=1e-2)  # another noise, another map


def test_paper_is_as_published():
    s = SAMPLERS["paper"]
    assert (s.masks, s.steps, s.spacing, s.eta, s.pooling) == ("published", 100, "leading", 0.0, "mean")
    masks = s.family(128)
    assert len(masks) == 128
    assert masks[20].sum() == 16 * 128
    assert MaskPlan(masks, torch.ones(1, 1, 128, 128, dtype=torch.bool)).cost(100) == 12_928
    assert (
        MaskPlan(SAMPLERS["fast"].family(64), torch.ones(1, 1, 64, 64, dtype=torch.bool)).cost(SAMPLERS["fast"].steps)
        <= 64
    )


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_any_number_at_once(batch_size, monkeypatch):
    x, brain = toy_slices(3)
    brain[1] = False  # a slice without brain among the others
    d, seen = awake(sampler=Sampler(steps=2)), []
    wanted = maps(d, x, brain)
    run = mt.MaskedTranslator.forward
    monkeypatch.setattr(
        mt.MaskedTranslator, "forward", lambda self, cond, *rest: seen.append(len(cond)) or run(self, cond, *rest)
    )
    d.batch_size = batch_size
    torch.testing.assert_close(maps(d, x, brain), wanted, rtol=1e-4, atol=1e-5)
    assert max(seen) <= batch_size
    assert sum(seen) == MaskPlan(d.config.sampler.family(32), brain).cost(2) * 2 / 3
    assert not wanted[1].any()


def test_masks_without_brain_make_no_difference():
    x, brain = toy_slices(2)
    brain[:, :, :, :16] = False
    d = awake()
    samplers = [Sampler("even", width=8, step=4, skip=skip) for skip in (True, False)]
    less, more = (maps(with_config(d, sampler=s), x, brain) for s in samplers)
    torch.testing.assert_close(less, more, rtol=1e-4, atol=1e-5)


# ---- trace
@named
def test_trace(cls, modalities):
    x, brain = toy_slices(2)
    d, mask = awake(cls, modalities), strip(32, 10, 6)[None]
    t = d.trace(x, mask, brain, torch.Generator().manual_seed(1), Sampler(steps=3))
    diffusion = cls is MMCCD
    assert [s.t for s in t.steps] == (time_steps(3) if diffusion else [0])
    assert all(isinstance(s, Step) for s in t.steps)
    seen = ~mask.expand_as(x)
    assert torch.equal(t.cond[seen], fill_background(x, brain)[seen])
    start, hidden, _ = fixed_noises(32, "cpu", torch.Generator().manual_seed(1))
    assert torch.equal(t.cond[~seen], hidden.expand_as(x)[~seen])
    if diffusion:
        assert torch.equal(t.steps[0].x_t, start.expand_as(x))
        assert all(torch.equal(a.x_s, b.x_t) for a, b in zip(t.steps, t.steps[1:]))
        assert not torch.allclose(t.steps[0].x0, t.steps[-1].x0)
    assert torch.equal(t.y, t.steps[-1].x_s)
    assert (t.y[~brain] == -1).all()
    assert torch.equal(t.reconstruction, d.translate_back(t.y, brain))
    assert torch.equal(t.error[brain], ((t.reconstruction - x) ** 2)[brain])
    assert not t.error[~brain].any()
    other = torch.where(mask, 3 * x.abs(), x)
    assert torch.equal(d.trace(other, mask, brain, torch.Generator().manual_seed(1), Sampler(steps=3)).y, t.y), (
        "what is hidden makes a difference"
    )


def test_translate_is_what_was_predicted_while_hidden():
    x, brain = toy_slices(1)
    d = awake()
    family = d.config.sampler.family(32)
    y = torch.cat([d.trace(x, m[None], brain).y for m in family]).detach()
    torch.testing.assert_close(
        d.translate(x, brain)[0], fill_background(pool(y, family)[None], brain)[0], rtol=1e-4, atol=1e-5
    )


# ---- learning
def test_the_loss_sees_the_brain_only_and_every_part_of_it():
    data, d = Toy(4), awake(modalities=THREE)

    def loss(batch):
        return d.loss(batch, torch.Generator().manual_seed(0)).item()

    b = data.batch([0, 1, 2, 3])
    outside = {k: v if k == "brain" else torch.where(b["brain"], v, 9.0) for k, v in b.items()}
    assert loss(b) == loss(outside)
    inside = {k: v if k == "brain" else torch.where(b["brain"], v + 0.5, v) for k, v in b.items()}
    assert loss(b) != loss(inside)
    assert (
        loss(b) > with_config(d, frozen_decoder=True).loss(b, torch.Generator().manual_seed(0)).item() > 0
    )  # two parts, or one


def test_masks_of_a_batch_differ(monkeypatch):
    seen = []
    monkeypatch.setattr(mt, "condition", lambda x, mask, eps: seen.append(mask) or torch.where(mask, eps, x))
    b, d = Toy(8).batch(list(range(8))), awake()
    masked_translation_loss(
        d.f, b["flair"], b["t2"], b["brain"], augment_masks=False, generator=torch.Generator().manual_seed(0)
    )
    masks = seen[0]
    assert len({m.numpy().tobytes() for m in masks}) >= 6
    across = [max(m.any(-1).sum(), m.any(-2).sum()) == 32 and min(m.any(-1).sum(), m.any(-2).sum()) <= 4 for m in masks]
    assert all(across)  # as published: one strip, an eighth wide


@pytest.mark.parametrize("modalities", [(), THREE])
def test_the_decoder_is_taken_and_stays(modalities):
    cycle = CyclicUNet(size=32, modalities=modalities, unet=SMALL)
    for p in cycle.parameters():
        p.data = torch.randn_like(p)
    d = load_frozen_decoder(awake(modalities=modalities), cycle)
    y, brain = toy_slices(2)
    assert torch.equal(d.translate_back(y, brain), cycle.translate_back(y, brain))
    assert d.config.frozen_decoder
    assert not any(p.requires_grad for p in d.g.parameters())
    assert all(p.requires_grad for p in d.f.parameters())
    assert torch.equal(
        load_frozen_decoder(awake(MaskedUNet, modalities), d).translate_back(y, brain), cycle.translate_back(y, brain)
    )  # from another masked one


@pytest.mark.parametrize(
    "other",
    [
        lambda: CyclicUNet(size=32, unet=SMALL, target="t1"),
        lambda: CyclicUNet(size=32, modalities=("flair", "t2"), unet=SMALL),
        lambda: load_detector("threshold-flair"),
        lambda: CyclicUNet(size=32, unet=replace(SMALL, channels=16)),
        lambda: CyclicUNet(size=32, unet=SMALL, normalisation="peak_iqr"),
    ],
)
def test_a_decoder_that_does_not_fit(other):
    d = awake()
    kept = {k: v.clone() for k, v in d.state_dict().items()}
    with pytest.raises(ValueError, match="the decoder from t2 to flair does not fit"):
        load_frozen_decoder(d, other())
    assert all(torch.equal(v, kept[k]) for k, v in d.state_dict().items())
    assert not d.config.frozen_decoder


# ---- options
def test_dividing_by_the_healthy_mean():
    x, brain = toy_slices(6)
    plain = awake(modalities=THREE, sampler=Sampler(width=16))
    d = fit_healthy_mean(with_config(plain, normalise_by="healthy_mean"), x, brain)
    a, b = maps(plain, x, brain), maps(d, x, brain)
    u = d.healthy_mean[d.pairs.index(("flair", "t2"))]
    torch.testing.assert_close(b, torch.where(brain, a / u, 0.0), rtol=1e-4, atol=1e-5)
    inside = brain.all(0) & (u > u.min())
    torch.testing.assert_close(
        b.mean(0)[inside], (a.sum() / brain.sum()).expand(int(inside.sum())), rtol=1e-4, atol=1e-5
    )
    assert (d.healthy_mean[d.pairs.index(("t1", "t2"))] == 1).all()
    assert d.calibration is None
    with pytest.raises(ValueError, match='normalise_by="healthy_mean"'):
        fit_healthy_mean(plain, x, brain)


def test_more_targets():
    x, brain = toy_slices(2)
    d = awake(modalities=THREE, sampler=Sampler(width=16))
    both = maps(with_config(d, extra_targets=("t1",)), x, brain)
    torch.testing.assert_close(both, (maps(d, x, brain) + maps(d.for_pair("flair", "t1"), x, brain)) / 2)


def test_another_use_is_not_calibrated():
    d = calibrate(awake(), *toy_slices(2), data="toy")
    for other in (with_config(d, sampler="paper"), awake(modalities=THREE).for_pair("t1", "flair")):
        assert other.calibration is None
    assert fingerprint(with_config(d)) == fingerprint(d) != fingerprint(with_config(d, sampler="paper"))
    assert d.calibration is not None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(input="t2", target="t2"), "both t2"),
        (dict(modalities=("flair", "t1")), "t2 is not among the modalities of the network"),
        (dict(extra_targets=("t1",)), "t1 is not among the modalities of the network"),
        (dict(schedule="square"), "square"),
        (dict(sampler="slow"), "paper, fast"),
        (dict(sampler=dict(masks="stars")), "stars"),
        (dict(sampler=dict(pooling="sum")), "sum"),
        (dict(sampler=dict(steps=0)), "between 1 and 1000"),
        (dict(size=32, sampler=dict(masks="blocks", width=16)), "dealt to 1 to 4"),
        (dict(sampler=dict(width=65)), "65"),
        (dict(sampler=dict(spacing="odd")), "odd"),
        (dict(normalisation="none"), "none"),
        (dict(size=30), "multiple"),
    ],
)
def test_wrong_configs(wrong, words):
    with pytest.raises(ValueError, match=words) as e:
        MMCCDConfig(**wrong)
    assert "\n" not in str(e.value)


def test_config_survives_json():
    c = MMCCDConfig(modalities=list(THREE), sampler="paper", extra_targets=["t1"], normalise_by="healthy_mean")
    assert MMCCDConfig(**json.loads(json.dumps(asdict(c)))) == c


def test_fewer_slices_set_the_threshold(monkeypatch):
    d, config = awake(sampler=Sampler(width=16)), TrainConfig(val_slices=8, batch_size=4)
    monkeypatch.setattr(MMCCD, "calibration_slices", 3)
    validate(d, Toy(8), config)
    assert d.calibration["slices"] == 3


def test_new_detector():
    d = new_detector("mmccd-published", 0, input="t1", target="t2", size=64, modalities=THREE, unet="paper")
    assert d.config.unet.channels == 32
    assert d.f.net.config.c_in == 2
    assert d.f.net.config.time
    d = new_detector("mmccd", 0, input="t1", target="t2", size=64, modalities=THREE)
    assert d.f.net.config.c_in == 3 + 3 + 4  # noisy target and input, a channel each; mask, two coordinates, detail
    assert (d.f.net.config.channels, d.g.nets[0].config.channels) == (32, 16)
    assert new_detector("mmccd", 0, size=64, modalities=THREE, unet="paper").config.f_unet is None
    assert sum(p.numel() for p in MMCCD(size=128, unet="paper").f.parameters()) == 6_600_257  # as published


# ---- packaged
@pytest.mark.parametrize("kind", ["mmccd", "masked", "mmccd-published", "masked-published"])
def test_packaged(kind):
    names = [f"{kind}-{a}-{b}" for a, b in directed_pairs(THREE)]
    assert set(names) <= set(packaged())
    ds, cycle = [load_detector(n) for n in names], load_detector("cycle-flair-t2")  # whose networks all pairs share
    way_back = cycle.translator.state_dict()
    for d, (a, b) in zip(ds, directed_pairs(THREE)):
        assert (d.config.input, d.config.target) == (a, b)
        assert d.threshold > 0
        assert isinstance(d, MaskedUNet if "masked" in kind else MMCCD)
        published, s = kind.endswith("published"), d.config.sampler
        assert d.config.imagination == IMAGINATIONS["published" if published else "detailed"]
        assert (s == SAMPLERS["fast"]) is published
        assert (s.width or 8) * s.n_strips == 32  # half of the slice at once
        assert all(torch.equal(v, ds[0].state_dict()[k]) for k, v in d.state_dict().items())  # one network for all
        assert all(torch.equal(v, way_back[k]) for k, v in d.g.state_dict().items())  # that of the cycle
    assert len({d.threshold for d in ds}) == 6
