"Ranks, autoencoders of three kinds and the denoiser, each compared with the formulas they claim."

import itertools
import math

import pytest
import torch
from detector_laws import maps, toy_slices
from torch import nn
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as torch_divergence
from toy_reconstructions import (
    THREE,
    Spy,
    Toy,
    awake,
    lagged,
    near,
    seeded,
)

import mmccd.baselines as bl
from mmccd.baselines import (
    Equalised,
    coarse_noise,
    equalise,
    kl_divergence,
)
from mmccd.detector import load_detector
from mmccd.registry import new_detector
from mmccd.runtime import single_thread
from mmccd.translate import fill_background


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


def coarse(n=2, seed=0):
    "Slices with few different values, so that there are ties."
    x, brain = toy_slices(n, seed=seed)
    return fill_background((16 * x).round() / 16, brain), brain


def test_ranks():
    from scipy.stats import rankdata

    x, brain = coarse()
    found = equalise(x, brain)
    for i in range(2):
        values = x[i][brain[i]].numpy()
        torch.testing.assert_close(
            found[i][brain[i]],
            torch.tensor(rankdata(values, method="max") / len(values), dtype=torch.float32),
            rtol=1e-6,
            atol=0,
        )
    assert not found[~brain].any()
    assert found[0][brain[0]].max() == found[1][brain[1]].max() == 1
    none = equalise(x, torch.zeros_like(brain))
    assert not none.any()
    assert none.isfinite().all()


def test_each_slice_by_itself():
    x, brain = coarse()
    x[1] = fill_background(x[1] + 5, brain[1])
    assert torch.equal(equalise(x, brain)[0], equalise(x[:1], brain[:1])[0])
    assert torch.equal(equalise(x, brain)[1], equalise(coarse()[0], brain)[1])


@pytest.mark.parametrize("rises", [torch.exp, lambda x: x**3, lambda x: 7 * x - 2, torch.arctan])
def test_whatever_rises_changes_no_rank(rises):
    x, brain = coarse()
    assert torch.equal(equalise(fill_background(rises(x), brain), brain), equalise(x, brain))
    assert not torch.equal(equalise(-x, brain), equalise(x, brain))


@pytest.mark.parametrize("input", ["flair", "t1"])
def test_ranks_change_no_average_precision_within_a_slice(input):
    "But across slices they do: that is what equalisation is for."
    from sklearn.metrics import average_precision_score as ap

    x, brain = coarse()
    plain, ranks = maps(load_detector(f"threshold-{input}"), x, brain), maps(Equalised(input=input), x, brain)
    lesion = torch.rand(x.shape, generator=seeded()) < torch.sigmoid(4 * x * (-1 if input == "t1" else 1) - 4)
    for i in range(2):
        assert ap(lesion[i][brain[i]], ranks[i][brain[i]]) == pytest.approx(
            ap(lesion[i][brain[i]], plain[i][brain[i]]), abs=1e-12
        )
    dimmed = fill_background(x - torch.tensor([0.0, 3.0])[:, None, None, None], brain)
    assert (
        abs(ap(lesion[brain], maps(Equalised(input=input), dimmed, brain)[brain]) - ap(lesion[brain], ranks[brain]))
        < 1e-12
    )
    assert (
        abs(
            ap(lesion[brain], maps(load_detector(f"threshold-{input}"), dimmed, brain)[brain])
            - ap(lesion[brain], plain[brain])
        )
        > 1e-3
    )


# ---- autoencoders
def test_divergence():
    mean, log_var = (torch.randn(3, 4, 5, 5, generator=seeded(s)) for s in (0, 1))
    wanted = torch_divergence(
        Independent(Normal(mean, (log_var / 2).exp()), 3), Independent(Normal(torch.zeros_like(mean), 1.0), 3)
    )
    torch.testing.assert_close(kl_divergence(mean, log_var), wanted, rtol=1e-5, atol=1e-5)
    assert not kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)).any()
    assert (kl_divergence(mean, log_var) > 0).all()


@pytest.mark.parametrize("kind", ["vae", "vae of places"])
def test_variational_loss_is_the_elbo(kind, monkeypatch):
    "Written out with distributions, over the pixels of the brain; times 2 sigma^2 / pixels, less a constant."
    d, b, drawn = awake(kind, sigma=0.3), Toy(5).d, []
    b["brain"][0, :, 10:] = False  # brains of different size
    decode, s = d.net.decode, 0.3
    monkeypatch.setattr(d.net, "decode", lambda z, label: drawn.append(z) or decode(z, label))
    loss, x = d.loss(b, seeded()), fill_background(b["flair"], b["brain"])
    mean, log_var = d.encode(x)
    q, p = Normal(mean, (log_var / 2).exp()), Normal(torch.zeros_like(mean), 1.0)
    terms = []
    for i in range(len(drawn[0])):
        inside = b["brain"][i]
        elbo = Normal(decode(drawn[0])[i][inside], s).log_prob(x[i][inside]).sum() - torch_divergence(q, p)[i].sum()
        terms.append(2 * s**2 / inside.sum() * (-elbo - inside.sum() * math.log(s * math.sqrt(2 * math.pi))))
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)
    away = torch.cat(
        [((d.loss(b, seeded(k)), drawn[-1])[1] - mean).div((log_var / 2).exp()).flatten() for k in range(40)]
    )
    near(away, 0.0)
    near(away**2, 1.0)  # drawn from q indeed


def test_a_variational_one_draws_to_learn_but_not_to_look():
    d, b = awake("vae"), Toy(3).d
    assert d.loss(b, seeded(0)) != d.loss(b, seeded(1))
    assert torch.equal(maps(d, b["flair"], b["brain"], 0), maps(d, b["flair"], b["brain"], 1))
    mean = d.net.encode(b["flair"])[:, :12]
    with torch.no_grad():
        assert torch.equal(d._reconstruct(b["flair"], b["brain"]), d.net.decode(mean))


def test_a_plain_one_learns_the_squared_error():
    d, b = awake("ae"), Toy(3).d
    back = d.net.decode(d.net.encode(b["flair"]))
    wanted = sum(((back[i] - b["flair"][i])[b["brain"][i]] ** 2).mean() for i in range(3)) / 3
    torch.testing.assert_close(d.loss(b, seeded()), wanted)


@torch.no_grad()
def test_shapes_of_latents():
    "As many numbers as the config says: at each place, or in all."
    x = torch.randn(2, 1, 32, 32, generator=seeded())
    assert awake("ae").net.encode(x).shape == (2, 4, 8, 8)
    assert awake("ae-dense").net.encode(x).shape == (2, 12)
    for kind, shape in (("vae", (2, 12)), ("vae of places", (2, 4, 8, 8))):
        assert all(part.shape == shape for part in awake(kind).encode(x))
    d = new_detector("ae", size=64)
    assert d.net.encode(torch.randn(1, 1, 64, 64)).shape == (1, 16, 8, 8)
    assert new_detector("ae-dense", size=64).net.encode(torch.randn(1, 1, 64, 64)).shape == (1, 128)


@torch.no_grad()
def test_a_spatial_latent_has_places():
    "A change in a corner has its effect there; far away only through the statistics of group normalisation."
    x = torch.randn(1, 1, 32, 32, generator=seeded())
    other = x.clone()
    other[..., :4, :4] += 1
    moved = (awake("ae").net.encode(other) - awake("ae").net.encode(x)).abs().amax((0, 1))
    assert moved[:2, :2].min() > 2 * moved[5:, 5:].max()
    assert moved.argmax() in (0, 1, 8, 9)
    net = awake("ae").net
    for m in net.modules():
        if isinstance(m, nn.GroupNorm):
            m.forward = lambda h: h
    moved = (net.encode(other) - net.encode(x)).abs().amax((0, 1))
    assert moved[:2, :2].min() > 100 * moved[5:, 5:].max()
    assert not moved[7].any()
    assert not moved[:, 7].any()
    dense = awake("ae-dense").net
    assert ((dense.encode(other) - dense.encode(x)).abs() > 1e-6).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ae", "ae-dense", "vae", "vae of places"])
def test_nothing_bypasses_the_latent(kind, monkeypatch):
    "Swapping the latents of two slices swaps the reconstructions."
    d, (x, brain) = awake(kind, THREE), toy_slices(2)
    label = d.label(x)
    plain, latent = d._reconstruct(x, brain, label), d.encode(x, label)
    monkeypatch.setattr(d, "encode", lambda *a: (latent[0].flip(0), None))
    torch.testing.assert_close(d._reconstruct(x, brain, label), plain.flip(0))
    monkeypatch.setattr(d, "encode", lambda *a: (torch.zeros_like(latent[0]), None))
    found = d._reconstruct(x, brain, label)
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(plain[0], plain[1])


def test_coarse_noise_is_as_strong_as_bilinear_weights_make_it():
    "Independent numbers, weighted: the variance is the sum of the squared weights, 4/9 in the limit of a fine picture."
    for size, grid in ((32, 8), (64, 16), (32, 5)):
        w = nn.functional.interpolate(torch.eye(grid)[None], size=size, mode="linear", align_corners=False)[
            0
        ]  # (grid size)
        near((coarse_noise(400, size, seeded(), grid) ** 2).flatten(1).mean(1), (w**2).sum(0).mean().item() ** 2)
    near(coarse_noise(400, 32, seeded(), 8).flatten(1).mean(1), 0.0)
    w = nn.functional.interpolate(torch.eye(16)[None], size=1024, mode="linear", align_corners=False)[0]
    assert (w**2).sum(0)[64:-64].mean().item() ** 2 == pytest.approx(4 / 9, rel=1e-3)


def test_the_coarser_the_grid_the_longer_the_correlation():
    found = [
        [lagged(coarse_noise(100, 64, seeded(), grid), k).mean().item() for k in (1, 4, 8)]
        for grid in (64, 32, 16, 8, 4)
    ]
    assert all(
        a < b for one, two in itertools.pairwise(found) for a, b in zip(one[: 2 if one is found[0] else 3], two)
    ) or all(two[0] > one[0] for one, two in itertools.pairwise(found))
    near(lagged(coarse_noise(400, 32, seeded(), 32)), 0.0)  # as many numbers as pixels: each by itself


def test_coarse_noise_is_shifted(monkeypatch):
    "Every image by its own amount, every amount as often: else a network could learn where the grid lies."
    picture = torch.arange(64.0).view(1, 1, 8, 8)
    monkeypatch.setattr(bl, "smooth_noise", lambda n, size, grid, generator: picture.expand(n, 1, 8, 8))
    found = coarse_noise(3200, 8, seeded(), 8)
    first = found[:, 0, 0, 0].long()
    for p, f in zip(found[:50], first):
        assert torch.equal(p[0], picture[0, 0].roll((-(int(f) // 8), -(int(f) % 8)), (0, 1)))
    assert (first.bincount(minlength=64) - 50).abs().max() < 5 * math.sqrt(50)


def test_a_denoiser_sees_coarse_noise_inside_and_is_asked_for_the_clean_slice():
    d, b = awake("dae", sigma=0.7), Toy(6).d
    d.net = spy = Spy()
    loss, x, brain = d.loss(b, seeded()), b["flair"], b["brain"]
    wanted = sum((x[i][brain[i]] ** 2).mean() for i in range(6)) / 6  # it said 0, so the loss is what was asked for
    torch.testing.assert_close(loss, wanted)
    noise = (spy.seen[0] - x) / 0.7
    assert not noise[~brain].any()
    assert (noise[brain] != 0).all()
    torch.testing.assert_close(noise, torch.where(brain, coarse_noise(6, 32, seeded(), 8), 0.0), rtol=1e-4, atol=1e-5)
    assert awake("dae", grid=32).config.grid == 32  # any grid up to the size will do
    assert not torch.equal(d.loss(b, seeded(1)), loss) or not torch.equal(spy.seen[0], spy.seen[1])


def test_a_denoiser_adds_no_noise_to_look():
    d, (x, brain) = awake("dae"), toy_slices(2)
    d.net = spy = Spy(lambda x: x)
    assert not maps(d, x, brain).any()
    assert len(spy.seen) == 1
    assert torch.equal(spy.seen[0], x)
