"IterMask and cycle-guided hiding: written out a second time, what must hold for every slice, and what is refused."

import itertools

import pytest
import torch
from detector_laws import check_detector, maps, toy_slices
from toy_reconstructions import SMALL, THREE, Spy, Toy, seeded

from mmccd.cycle import CyclicUNet
from mmccd.detector import calibrate, load_detector, with_config
from mmccd.itermask import (
    FULL,
    GuidedConfig,
    GuidedMMCCD,
    IterMask,
    IterMaskConfig,
    guided_by_cycle,
    high_frequencies,
    random_regions,
)
from mmccd.masked_diffusion import MMCCD, MaskedUNet, load_frozen_decoder
from mmccd.masked_translation import Sampler
from mmccd.runtime import single_thread


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


def awake(cls=IterMask, seed=0, **config):
    "A detector without zero weights: a new network predicts 0 everywhere."
    own = dict(cutoff=6.0) if cls is IterMask else dict(sampler=Sampler(steps=2))
    d, g = cls(**dict(size=32, unet=SMALL, modalities=THREE) | own | config), seeded(seed)
    for p in d.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=g)
    return d.eval()


# ---- what the network is given
def test_high_frequencies_by_hand():
    "The cosine of k cycles passes from the cut-off on, and not below it, in every direction."
    at = torch.arange(32) / 32 * 2 * torch.pi
    for i, j in ((3, 0), (0, 3), (3, 4), (2, 1)):
        wave = torch.cos(i * at[:, None] + j * at)[None, None]
        for cutoff in (1.0, 2.5, 3.0, 5.0, 5.5):
            wanted = wave if i * i + j * j >= cutoff**2 else 0 * wave
            torch.testing.assert_close(high_frequencies(wave, cutoff), wanted, rtol=0, atol=1e-5)
    x = torch.randn(3, 1, 32, 32, generator=seeded())
    torch.testing.assert_close(high_frequencies(x, 0), x, rtol=0, atol=1e-5)
    moved = high_frequencies(x.roll((3, 5), (2, 3)), 7)
    torch.testing.assert_close(moved, high_frequencies(x, 7).roll((3, 5), (2, 3)), rtol=0, atol=1e-5)
    assert high_frequencies(x[:0], 3).shape == (0, 1, 32, 32)


def test_regions_lie_in_the_brain_and_have_every_size():
    brain = toy_slices(1)[1].expand(600, 1, 32, 32)
    before = torch.random.get_rng_state()
    masks = random_regions(brain, seeded())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(masks, random_regions(brain, seeded()))
    assert not torch.equal(masks, random_regions(brain, seeded(1)))
    assert not (masks & ~brain).any()
    share = masks.flatten(1).sum(1) / brain[0].sum()
    whole = share == 1
    assert abs(whole.float().mean() - FULL) < 5 * (FULL * (1 - FULL) / 600) ** 0.5
    tenths = (share[~whole] * 10).long().bincount(minlength=10)
    assert tenths.min() > 0.5 * tenths.float().mean()
    assert random_regions(brain[:2] & False, seeded()).sum() == 0


def test_regions_are_connected_more_than_noise_is():
    brain = torch.ones(200, 1, 32, 32, dtype=torch.bool)
    m = random_regions(brain, seeded()).float()
    share = m.flatten(1).mean(1)
    together = (m[..., 1:] * m[..., :-1]).flatten(1).mean(1)
    some = (share > 0.1) & (share < 0.9)
    assert (together - share**2)[some].mean() > 0.05


# ---- IterMask
@pytest.mark.parametrize("config", [dict(modalities=(), tau=0.05), dict(window=1, tau=0.1), dict(first=1.0, rounds=3)])
def test_properties(config, tmp_path):
    check_detector(awake(**config), tmp_path / "d")


@torch.no_grad()
def by_the_book(d, x, brain):
    "One slice, pixel by pixel: masks, and each pixel's squared error while it was last hidden."
    c, h, w = d.config, *x.shape[-2:]
    inside = [(i, j) for i in range(h) for j in range(w) if brain[0, 0, i, j]]
    mask, masks, score = set(inside), [], torch.zeros(1, 1, h, w)
    for k in range(c.rounds):
        masks.append(mask)
        m = torch.zeros(1, 1, h, w, dtype=torch.bool)
        for p in mask:
            m[(0, 0, *p)] = True
        label = torch.tensor([d.config.modalities.index(c.input)])
        y = d.net(torch.cat([torch.where(m, 0.0, x), m.float(), high_frequencies(x, c.cutoff)], 1), label=label)
        e, r, wide = ((y - x) ** 2)[0, 0], c.window // 2, {}
        for i, j in mask:
            score[0, 0, i, j] = e[i, j]
            near = [
                e[p].item() for p in ((i + a, j + b) for a in range(-r, r + 1) for b in range(-r, r + 1)) if p in mask
            ]
            wide[i, j] = sum(near) / len(near)
        if k == 0:
            kept = sorted(mask, key=lambda p: wide[p])[int((1 - c.first) * len(mask)) :]
        else:
            kept = [p for p in mask if wide[p] > c.tau]
        if len(kept) >= (1 - c.shrink) * len(mask):
            break
        mask = set(kept)
    return masks, score


@pytest.mark.parametrize(("window", "tau"), [(1, 0.15), (3, 0.15), (3, 0.0), (1, 5.0)])
def test_against_the_definition(window, tau):
    d, (x, brain) = awake(window=window, tau=tau, first=0.5), toy_slices(2)
    with torch.no_grad():
        rounds = d.rounds(x, brain)
    for i in range(2):
        masks, score = by_the_book(d, x[i : i + 1], brain[i : i + 1])
        sizes = [int(r.mask[i].sum()) for r in rounds]
        assert sizes[: len(masks)] == pytest.approx([len(m) for m in masks], abs=2)
        assert set(sizes[len(masks) :]) <= {len(masks[-1])}  # done: the mask stays
        torch.testing.assert_close(maps(d, x, brain)[i : i + 1], score, rtol=1e-3, atol=1e-4)


def test_masks_only_shrink_and_begin_with_all():
    d, (x, brain) = awake(tau=0.1), toy_slices(3)
    with torch.no_grad():
        rounds = d.rounds(x, brain)
    assert torch.equal(rounds[0].mask, brain)
    assert 2 < len(rounds) <= d.config.rounds
    for a, b in itertools.pairwise(rounds):
        assert not (b.mask & ~a.mask).any()
        assert not a.error[~a.mask].any()
    share = (rounds[1].mask.sum() / brain.sum()).item()
    assert share == pytest.approx(d.config.first, abs=0.01)


def test_without_a_tau_there_are_two_rounds():
    d, (x, brain) = awake(), toy_slices(2)
    with torch.no_grad():
        assert len(d.rounds(x, brain)) == 2
        assert len(with_config(d, first=1.0).rounds(x, brain)) == 1
        assert len(with_config(d, tau=1e6).rounds(x, brain)) == 3  # nothing is hidden any more
        assert not with_config(d, tau=1e6).rounds(x, brain)[-1].mask.any()


def test_what_is_hidden_is_not_seen():
    "Neither through the visible part nor, below the cut-off, through the detail."
    d, (x, _) = awake(cutoff=6.0), toy_slices(1)
    noise = torch.randn(x.shape, generator=seeded(3))
    slow, all_of_it = noise - high_frequencies(noise, 6.0), torch.ones_like(x, dtype=torch.bool)
    label = d.label(x)
    with torch.no_grad():
        same = d.fill_in(x + slow, all_of_it, label)
        torch.testing.assert_close(same, d.fill_in(x, all_of_it, label), rtol=0, atol=1e-4)
        for other in (d.fill_in(x + slow, ~all_of_it, label), d.fill_in(x + noise - slow, all_of_it, label)):
            assert not torch.allclose(other, same, atol=1e-2)


@pytest.mark.parametrize("stay", [0.05, 0.2])
def test_tau_leaves_its_share_of_healthy_pixels(stay):
    d, (x, brain) = awake(stay=stay), toy_slices(6)
    weights = {k: v.clone() for k, v in d.state_dict().items()}
    d.fit_healthy(x, brain, seeded(4))
    mask = random_regions(brain, seeded(4))
    with torch.no_grad():
        above = (d.one_round(x, brain, mask).error > d.config.tau)[mask].float().mean().item()
    assert stay - 0.01 < above <= stay + 1e-6
    assert all(torch.equal(v, weights[k]) for k, v in d.state_dict().items())
    assert d.for_modality("t1").config.tau == 0  # each modality has its own
    again = awake(stay=stay)
    again.fit_healthy(x, brain, seeded(4))
    assert again.config == d.config


def test_calibration_sets_tau_before_the_threshold(tmp_path):
    d, (x, brain) = awake(), toy_slices(4)
    calibrate(d.train(), x, brain, 0.1, "toy", seeded())
    assert d.training
    assert d.config.tau > 0
    h, tau = d.threshold, d.config.tau
    assert (maps(d.eval(), x, brain)[brain] > h).float().mean() <= 0.1
    calibrate(d, x, brain, 0.1, "toy", seeded())
    assert (d.threshold, d.config.tau) == (h, tau)
    assert load_detector(d.save_pretrained(tmp_path / "d")).config == d.config


def test_the_loss_is_that_of_what_is_hidden():
    d, b = awake(modalities=()), Toy(6).d
    d.net = spy = Spy(lambda seen: seen[:, :1])  # returns what is visible, so that the rest is wrong by its own value
    loss = d.loss(b, seeded())
    mask = spy.seen[0][:, 1:2] > 0
    hidden = [(b["flair"][i][mask[i]] ** 2).mean() for i in range(6)]
    torch.testing.assert_close(loss, sum(hidden) / 6)
    assert torch.equal(mask, random_regions(b["brain"], seeded()))


@pytest.mark.parametrize(
    "wrong", [dict(window=2), dict(input="pet"), dict(modalities=("t1",)), dict(modalities=("flair", "flair"))]
)
def test_refused_settings(wrong):
    with pytest.raises(ValueError, match=r"odd|must|among"):
        IterMaskConfig(**wrong)


# ---- cycle-guided hiding
def test_properties_of_guided_hiding(tmp_path):
    check_detector(awake(GuidedMMCCD), tmp_path / "d")


def test_nothing_suspicious_is_the_cycle_and_everything_is_one_mask():
    d, (x, brain) = awake(GuidedMMCCD, suspicion=1e6), toy_slices(2)
    cycle = CyclicUNet(size=32, unet=SMALL, modalities=THREE)
    cycle.translator.load_state_dict(d.g.state_dict())
    assert torch.equal(maps(d, x, brain), maps(cycle, x, brain))
    open_eyes = with_config(d, suspicion=0.0)
    with torch.no_grad():
        e, wanted = d.trace(x, brain, brain, seeded()).error, maps(cycle, x, brain)
    torch.testing.assert_close(maps(open_eyes, x, brain), (e * wanted).sqrt(), rtol=1e-4, atol=1e-6)


def test_visible_pixels_are_the_cycles_and_hidden_ones_need_both():
    d, (x, brain) = awake(GuidedMMCCD), toy_slices(4)
    d.fit_healthy(x, brain)
    with torch.no_grad():
        e = d.cycle(x, brain)[0]
        mask = d.suspects(e, brain)
        masked = d.trace(x, mask, brain, seeded()).error
    a = maps(d, x, brain)
    assert 0.1 < mask.sum() / brain.sum() < 0.9
    assert torch.equal(a[~mask], e[~mask])
    torch.testing.assert_close(a[mask] ** 2, (e * masked)[mask], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("suspected", [0.02, 0.1])
def test_suspicion_leaves_its_share_of_healthy_brain(suspected):
    d, (x, brain) = awake(GuidedMMCCD, suspected=suspected, margin=1), toy_slices(6)
    d.fit_healthy(x, brain)
    with torch.no_grad():
        share = (d.suspects(d.cycle(x, brain)[0], brain).sum() / brain.sum()).item()
    assert suspected - 0.01 < share <= suspected + 1e-6
    wide = with_config(d, margin=3)
    with torch.no_grad():
        assert (wide.suspects(d.cycle(x, brain)[0], brain) >= d.suspects(d.cycle(x, brain)[0], brain)).all()
    assert d.for_pair("t1", "t2").config.suspicion == 0


@pytest.mark.parametrize("cls", [MMCCD, MaskedUNet])
def test_made_of_a_masked_detector(cls):
    d, (x, brain) = awake(cls), toy_slices(2)
    guided = guided_by_cycle(d, suspicion=0.01)
    assert type(guided) is GuidedMMCCD
    assert guided.config.diffusion == d.config.diffusion
    assert all(torch.equal(v, d.state_dict()[k]) for k, v in guided.state_dict().items())
    mask = toy_slices(2)[1].roll(8, 3)
    with torch.no_grad():
        one, other = (q.trace(x, mask, brain, seeded()).error for q in (d, guided))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert load_frozen_decoder(guided, d).config.frozen_decoder


@pytest.mark.parametrize("wrong", [dict(modalities=()), dict(window=4), dict(margin=2), dict(extra_targets=("t1",))])
def test_refused_guidance(wrong):
    with pytest.raises(ValueError, match=r"modalities|odd|targets"):
        GuidedConfig(**wrong)
