"The baselines: ranks, autoencoders of three kinds, a denoiser and diffusion part of the way, each held to the laws of every detector and to the formulas it claims."

import itertools
import json
import math
import os
import signal
from dataclasses import asdict, replace

import pytest
import torch
from detector_laws import check_detector, maps, toy_slices
from torch import nn
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as torch_divergence

import mmccd.baselines as bl
from mmccd.baselines import (
    AE,
    DAE,
    DDPM,
    AEConfig,
    DAEConfig,
    DDPMConfig,
    Equalised,
    Reconstruction,
    coarse_noise,
    kl_divergence,
    equalise,
    gaussian_noise,
    draw_modalities,
    simplex_noise,
    simplex_octave,
)
from mmccd.detector import Detector, calibrate, fingerprint, load_detector
from mmccd.diffusion import time_steps
from mmccd.masked_diffusion import MMCCD
from mmccd.registry import METHODS, new_detector
from mmccd.runtime import single_thread
from mmccd.training.checkpoint import checkpoints
from mmccd.training.log import sample_figure
from mmccd.training.run import train
from mmccd.training_loop import TrainConfig
from mmccd.translate import fill_background
from mmccd.unet import UNetConfig, count_parameters

SMALL = UNetConfig(size=32, channels=8, mults=(1, 2), blocks=1, attention=(16,), heads=2)
NARROW = UNetConfig(size=32, channels=8, mults=(1, 2), stem=2)
SHORT = dict(depth=100, n_steps=4)
THREE = ("flair", "t1", "t2")
KINDS = {
    "ae": (AE, dict(unet=NARROW, latent=4)),
    "ae-dense": (AE, dict(unet=NARROW, latent=12, dense=True)),
    "vae": (AE, dict(unet=NARROW, latent=12, dense=True, sigma=0.2)),
    "vae of places": (AE, dict(unet=NARROW, latent=4, sigma=0.2)),
    "dae": (DAE, dict(unet=SMALL, grid=8)),
    "ddpm": (DDPM, dict(unet=SMALL, **SHORT)),
    "ddpm-simplex": (DDPM, dict(unet=SMALL, noise="simplex", **SHORT)),
}
METHOD = [k for k in KINDS if k in METHODS]
every, ddpms = pytest.mark.parametrize("kind", KINDS), pytest.mark.parametrize("kind", ["ddpm", "ddpm-simplex"])


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(kind, modalities=(), seed=0, **config):
    "No weight is zero any more: a new network says 0 everywhere."
    cls, fields = KINDS[kind]
    d, g = cls(**dict(size=32, modalities=modalities) | fields | config), seeded(seed)
    for p in d.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=g)
    return d.eval()


class Toy:
    "Slices in memory: something that all brains share and something of their own; three modalities, each a function of the first."

    def __init__(self, n=12, seed=0):
        x, brain = toy_slices(n, 32, 32, seed)
        x = fill_background(0.3 * x + torch.linspace(-2, 2, 32).sin(), brain)
        self.d = {
            "flair": x,
            "t1": fill_background(torch.sin(3 * x), brain),
            "t2": fill_background(-x, brain),
            "brain": brain,
        }

    def __len__(self):
        return len(self.d["brain"])

    def batch(self, indices):
        return {k: v[indices] for k, v in self.d.items()}


class Spy(nn.Module):
    "Stands where a network stands, writes down what it is asked, and says what it is told to."

    def __init__(self, say=torch.zeros_like):
        super().__init__()
        self.say, self.seen, self.t, self.label = say, [], [], []

    def forward(self, x, t=None, label=None):
        for where, what in ((self.seen, x), (self.t, t), (self.label, label)):
            where.append(what)
        return self.say(x)


def near(values, wanted):
    "Is the mean of independent `values` what is wanted? Five standard errors are met by chance once in a million."
    assert abs(values.mean() - wanted) < 5 * values.std() / math.sqrt(len(values)), (
        values.mean().item(),
        wanted,
        values.std().item() / math.sqrt(len(values)),
    )


# ------------------------------------------------------------------------------------------------- the detectors
@pytest.mark.parametrize("modalities", [(), THREE], ids=["own", "shared"])
@every
def test_laws(kind, modalities, tmp_path):
    check_detector(awake(kind, modalities), tmp_path / "d")


@pytest.mark.parametrize("input", ["flair", "t1"])
def test_laws_of_ranks(input, tmp_path):
    check_detector(Equalised(input=input), tmp_path / "d")


@every
def test_kept_and_loaded(kind, tmp_path):
    "Numbers are not asked for here (the laws do), but that no two of these pass for one another."
    d = calibrate(awake(kind, THREE), *toy_slices(2), data="toy")
    again = load_detector(d.save_pretrained(tmp_path / "d"))
    marks = {fingerprint(x) for x in (d, d.for_modality("t1"), awake(kind, THREE), awake(kind, THREE, seed=1))}
    assert fingerprint(again) == fingerprint(d)
    assert len(marks) == 4
    assert isinstance(again.config.unet, UNetConfig)


def test_no_two_kinds_are_alike():
    x, brain = toy_slices(1)
    assert len({fingerprint(awake(k)) for k in KINDS}) == len(KINDS)
    assert all(issubclass(cls, Reconstruction) for cls, _ in KINDS.values())
    assert not issubclass(Equalised, Reconstruction)
    found = [maps(awake(k), x, brain) for k in KINDS]
    assert all(not torch.allclose(a, b) for i, a in enumerate(found) for b in found[:i])


@every
def test_the_map_is_what_does_not_come_back(kind):
    x, brain = toy_slices(2)
    d = awake(kind)
    with torch.no_grad():
        back = d.reconstruct(x, brain, seeded())
    assert (back[~brain] == -1).all()
    assert torch.equal(maps(d, x, brain), torch.where(brain, (back - x) ** 2, 0.0))
    d._reconstruct = lambda x, brain, label, generator: x
    assert not maps(d, x, brain).any()


def test_a_reconstruction_says_how():
    with pytest.raises(NotImplementedError, match="gives back"):
        maps(Reconstruction(size=32), *toy_slices(1))


@every
def test_the_background_has_no_say(kind):
    d, (x, brain), b = awake(kind), toy_slices(2), Toy(4).d
    wild = torch.where(brain, x, 9.0)
    assert torch.equal(maps(d, wild, brain), maps(d, x, brain))

    def loss(x):
        return d.loss(b | {"flair": x}, seeded()).item()

    assert (
        loss(torch.where(b["brain"], b["flair"], 9.0))
        == loss(b["flair"])
        != loss(fill_background(b["flair"] + 0.5, b["brain"]))
    )


@every
def test_the_map_hangs_on_slice_and_seed_only(kind):
    "Not on what was asked before, nor on how far its generator has got."
    d, (x, brain) = awake(kind), toy_slices(2)
    first, g = maps(d, x, brain, 3), seeded(3)
    for _ in range(2):
        torch.testing.assert_close(d.anomaly_map(x, brain, g), first, rtol=0, atol=0)
    torch.testing.assert_close(maps(d, x[[1, 0, 1]], brain[[1, 0, 1]], 3), first[[1, 0, 1]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(d.anomaly_map(x, brain), maps(d, x, brain, 0), rtol=0, atol=0)  # without one: seed 0
    assert torch.equal(maps(d, x, brain, 4), first) != kind.startswith("ddpm")


# ------------------------------------------------------------------------------------------------- several modalities
@every
def test_of(kind, tmp_path):
    d, (x, brain) = calibrate(awake(kind, THREE), *toy_slices(2), data="toy"), toy_slices(2)
    other = d.for_modality("t2")
    assert type(other) is type(d)
    assert other.config == replace(d.config, input="t2")
    assert other.calibration is None
    assert not other.training
    assert all(torch.equal(v, d.state_dict()[k]) for k, v in other.state_dict().items())
    assert not torch.equal(maps(other, x, brain), maps(d, x, brain))  # it is told another name
    kept = maps(d, x, brain)
    assert torch.equal(maps(load_detector(other.save_pretrained(tmp_path / "o")).for_modality("flair"), x, brain), kept)
    for p in other.parameters():
        p.data += 1
    assert torch.equal(maps(d, x, brain), kept)  # they share nothing in memory
    with pytest.raises(ValueError, match="this network knows flair, t1, t2, and t1ce is not among them"):
        d.for_modality("t1ce")


@every
def test_a_modality_that_was_not_learned(kind):
    "A network for FLAIR must not pass for one for T1."
    with pytest.raises(ValueError, match="this network knows flair, and t1 is not among them"):
        awake(kind).for_modality("t1")
    assert awake(kind).for_modality("flair").config == awake(kind).config


@every
def test_it_is_told_the_place_of_its_modality(kind):
    "Sorted: the order in which they were named has no say."
    x, brain = toy_slices(2)
    assert torch.equal(
        maps(awake(kind, ("t2", "t1", "flair"), input="t2"), x, brain), maps(awake(kind, THREE, input="t2"), x, brain)
    )
    assert [awake(kind, THREE, input=m).label(x).tolist() for m in THREE] == [[k] * 2 for k in range(3)]
    assert awake(kind).label(x) is None


def test_one_each():
    b, config = Toy(90).d, AEConfig(size=32, modalities=THREE, unet=NARROW)
    wild = {k: v if k == "brain" else torch.where(b["brain"], v, 9.0) for k, v in b.items()}
    x, label = draw_modalities(wild, config, seeded())
    assert all(torch.equal(x[i], b[THREE[k]][i]) for i, k in enumerate(label.tolist()))
    assert (label.bincount(minlength=3) - 30).abs().max() < 5 * math.sqrt(90 * 2 / 9)
    assert not torch.equal(label, draw_modalities(b, config, seeded(1))[1])
    x, label = draw_modalities(wild, AEConfig(size=32, input="t2", unet=NARROW), seeded())
    assert torch.equal(x, b["t2"])
    assert label is None


@every
def test_the_label_of_training_is_that_of_the_test(kind):
    "All slices of a batch in T1: the network hears the same number from `loss` and from the map."
    d, b, heard = awake(kind, ("t1",), input="t1"), Toy(4).d, []
    seen = d.net.label.register_forward_hook(lambda m, given, out: heard.append(given[0]))
    d.loss(b, seeded())
    maps(d, b["t1"], b["brain"])
    seen.remove()
    assert heard
    assert all((h == 0).all() for h in heard)
    d, heard = awake(kind, THREE, input="t2"), []
    d.net.label.register_forward_hook(lambda m, given, out: heard.append(given[0]))
    maps(d, b["t2"], b["brain"])
    assert heard
    assert all((h == 2).all() for h in heard)


# ------------------------------------------------------------------------------------------------- configs
NORMAL = "The method of normalisation is 'odd', expected one of"
WRONG = [
    (dict(input="t2", modalities=("t1", "flair")), "shall know flair, t1, and t2 is not among them"),
    (dict(normalisation="odd"), NORMAL),
    (dict(size=60), "size must be a multiple of .* got 60"),
    (dict(unet="huge"), "unknown size 'huge': choose paper or tiny"),
    (dict(modalities=("flair", "flair")), "modalities must be different ones, got flair, flair"),
]


def refuses(make, say):
    with pytest.raises(ValueError, match=say) as e:
        make()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("cls", [AE, DAE, DDPM])
@pytest.mark.parametrize(("fields", "say"), WRONG)
def test_wrong_configs(cls, fields, say):
    refuses(lambda: cls(**fields), say)


@pytest.mark.parametrize(
    ("cls", "fields", "say"),
    [
        (AE, dict(latent=0), "latent must be a whole number, at least 1, got 0"),
        (AE, dict(sigma=-0.1), "sigma must not be negative, got -0.1"),
        (AE, dict(sigma=float("nan")), "sigma must not be negative, got nan"),
        (DAE, dict(grid=0), "grid must be a whole number from 1 to 64, got 0"),
        (DAE, dict(grid=33, size=32), "grid must be a whole number from 1 to 32, got 33"),
        (DAE, dict(sigma=0.0), "sigma must be positive, got 0.0"),
        (DDPM, dict(schedule="square"), "unknown schedule 'square': choose linear, cosine"),
        (DDPM, dict(prediction="odd"), "unknown prediction 'odd': choose x0, eps, v"),
        (DDPM, dict(noise="pink"), "unknown noise 'pink': choose gaussian, simplex"),
        (DDPM, dict(depth=0), "depth must lie between 1 and 1000, got 0"),
        (DDPM, dict(depth=101, steps=100), "depth must lie between 1 and 100, got 101"),
        (DDPM, dict(n_steps=0), "n_steps must lie between 1 and the depth, 250, got 0"),
        (DDPM, dict(n_steps=11, depth=10), "n_steps must lie between 1 and the depth, 10, got 11"),
        (Equalised, dict(input="pd"), "input must be one of flair, t1, t1ce, t2, got 'pd'"),
        (Equalised, dict(normalisation="odd"), NORMAL),
    ],
)
def test_wrong_fields(cls, fields, say):
    refuses(lambda: cls(**fields), say)


@every
def test_slices_of_another_size(kind):
    for b, s in ((1, 16), (2, 64)):
        refuses(lambda: maps(awake(kind), *toy_slices(b, s, s)), f"must be 1 x 32 x 32, got 1 x {s} x {s}")


@pytest.mark.parametrize(
    "config",
    [
        AEConfig(),
        AEConfig(unet="paper", size=128, modalities=["t2", "flair"], dense=True, sigma=0.1),
        DAEConfig(unet=replace(SMALL, dropout=0.2), size=32),
        DDPMConfig(unet=dict(channels=8, mults=[1, 2], attention=[]), modalities=THREE),
    ],
)
def test_config_through_json(config):
    again = type(config)(**json.loads(json.dumps(asdict(config))))
    assert again == config
    assert hash(again) == hash(config)
    assert isinstance(again.unet, UNetConfig)
    assert isinstance(again.modalities, tuple)
    assert (again.unet.size, again.unet.labels, again.unet.time) == (
        config.size,
        len(config.modalities),
        isinstance(config, DDPMConfig),
    )


@pytest.mark.parametrize(("size", "unet"), [(32, "tiny"), (64, "tiny"), (128, "tiny"), (64, "paper")])
@pytest.mark.parametrize("method", METHOD)
def test_sizes_by_name(method, size, unet):
    d = new_detector(method, size=size, unet=unet, n_steps=1)
    x, brain = toy_slices(1, size, size)
    assert d.config.unet.size == size
    assert maps(d, x, brain)[brain].any()


def test_as_many_parameters_as_the_one_to_compare_with():
    "At the paper's size the diffusion model is the network of MMCCD, less one channel that comes in; none is ten times another."
    count = {m: count_parameters(new_detector(m, size=128, unet="paper")) for m in METHOD}
    assert count["ddpm"] == count["ddpm-simplex"] == count_parameters(MMCCD(size=128, unet="paper").f) - 9 * 32
    assert max(count.values()) < 2 * min(count.values())


# ------------------------------------------------------------------------------------------------- ranks
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


# ------------------------------------------------------------------------------------------------- autoencoders
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
    "Written out with distributions, on what was drawn, over the pixels of the brain; times 2 sigma^2 / pixels, less what no network can change."
    d, b, drawn = awake(kind, sigma=0.3), Toy(5).d, []
    b["brain"][0, :, 10:] = False  # brains of different size
    decode, s = d.net.decode, 0.3
    monkeypatch.setattr(d.net, "decode", lambda z, label: drawn.append(z) or decode(z, label))
    loss, x = d.loss(b, seeded()), fill_background(b["flair"], b["brain"])
    mean, log_var = d.encode(x)
    q, p = Normal(mean, (log_var / 2).exp()), Normal(torch.zeros_like(mean), 1.0)
    terms = []
    for i, z in enumerate(drawn[0]):
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
def test_middles():
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
def test_a_spatial_middle_knows_places():
    "What happens in a corner is felt there; far away it is felt through group normalisation alone, which sees the mean and spread of the whole."
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
def test_nothing_goes_round_the_middle(kind, monkeypatch):
    "Who swaps the middles of two slices swaps all that comes back."
    d, (x, brain) = awake(kind, THREE), toy_slices(2)
    label = d.label(x)
    plain, middle = d._reconstruct(x, brain, label), d.encode(x, label)
    monkeypatch.setattr(d, "middle", lambda *a: (middle[0].flip(0), None))
    torch.testing.assert_close(d._reconstruct(x, brain, label), plain.flip(0))
    monkeypatch.setattr(d, "middle", lambda *a: (torch.zeros_like(middle[0]), None))
    found = d._reconstruct(x, brain, label)
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(plain[0], plain[1])


# ------------------------------------------------------------------------------------------------- noises
def lagged(p, k=1):
    "Correlation of each pixel with the one `k` to the right, one number a picture."
    return (p[..., k:] * p[..., :-k]).flatten(1).mean(1) / (p**2).mean()


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
    "Every picture by its own amount, every amount alike: else the grid would stand still, and a network could learn where."
    picture = torch.arange(64.0).view(1, 1, 8, 8)
    monkeypatch.setattr(bl, "gaussian_noise", lambda n, size, generator: picture.expand(n, 1, 8, 8))
    found = coarse_noise(3200, 8, seeded(), 8)
    first = found[:, 0, 0, 0].long()
    for p, f in zip(found[:50], first):
        assert torch.equal(p[0], picture[0, 0].roll((-(int(f) // 8), -(int(f) % 8)), (0, 1)))
    assert (first.bincount(minlength=64) - 50).abs().max() < 5 * math.sqrt(50)


@pytest.mark.parametrize("noise", [gaussian_noise, coarse_noise, simplex_noise])
def test_the_generator_decides_all(noise):
    before = torch.random.get_rng_state()
    one = noise(3, 32, seeded())
    assert one.shape == (3, 1, 32, 32)
    assert one.dtype == torch.float32
    assert torch.equal(one, noise(3, 32, seeded()))
    assert not torch.equal(one, noise(3, 32, seeded(1)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(one[0], one[1])
    torch.manual_seed(0)
    a = noise(1, 32)
    torch.manual_seed(0)
    assert torch.equal(a, noise(1, 32))


@pytest.mark.parametrize("noise", [gaussian_noise, simplex_noise])
@pytest.mark.parametrize("size", [32, 64])
def test_mean_zero_variance_one(noise, size):
    "A number for each call: pictures of one call share the lattice, and are not independent in how strong they are where."
    calls = [noise(4, size, seeded(k)) for k in range(60)]
    near(torch.stack([c.mean() for c in calls]), 0.0)
    near(torch.stack([(c**2).mean() for c in calls]), 1.0)


def test_octaves_and_persistence_keep_the_variance():
    for fields in (dict(octaves=1), dict(octaves=3, persistence=0.5), dict(octaves=2, persistence=1.0)):
        near(torch.stack([(simplex_noise(4, 64, seeded(k), **fields) ** 2).mean() for k in range(60)]), 1.0)
    rough = [lagged(simplex_noise(20, 64, seeded(), octaves=n)).mean() for n in (1, 3, 5)]
    assert rough[0] > rough[1] > rough[2]


def test_variance_of_an_octave():
    "Each corner adds fade^2 times half its squared distance, on the average over directions; there are sqrt(3) corners to a unit of area."
    from scipy.integrate import quad

    back = (3 - math.sqrt(3)) / 6
    density = 1 / ((1 - back) ** 2 - back**2)  # one over the area that each corner has
    wanted = density * quad(lambda r: (0.5 - r * r) ** 8 * r * r / 2 * 2 * math.pi * r, 0, math.sqrt(0.5))[0]
    assert wanted == pytest.approx(math.sqrt(3) * math.pi / 2 / 2**10 / 90, rel=1e-9)
    k = simplex_octave(2, 32, 8.0, seeded()) / simplex_noise(2, 32, seeded(), octaves=1)
    torch.testing.assert_close(k, torch.full_like(k, math.sqrt(wanted)), rtol=1e-3, atol=0)
    near(torch.stack([(simplex_octave(4, 64, 6.3, seeded(s)) ** 2).mean() for s in range(60)]) / wanted, 1.0)


def test_simplex_neighbours_are_alike_and_gaussian_ones_are_not():
    assert lagged(simplex_noise(50, 64, seeded())).min() > 0.3
    near(lagged(gaussian_noise(400, 64, seeded())), 0.0)
    both = simplex_noise(50, 64, seeded())
    assert abs(lagged(both).mean() - lagged(both.transpose(2, 3)).mean()) < 0.05  # no direction is preferred


def test_pictures_of_a_batch_do_not_hang_together():
    near(torch.stack([(p[0] * p[1]).mean() for p in (simplex_noise(2, 32, seeded(k)) for k in range(200))]), 0.0)
    p = simplex_noise(64, 32, seeded())
    assert p.flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.9


def test_an_octave_is_a_smooth_field():
    "Twice as many pixels to a period show the same field at every second of them, and half the difference from one to the next."
    same, ratio = 0, []
    for k in range(20):
        a, b = simplex_octave(1, 64, 16.0, seeded(k)), simplex_octave(1, 128, 32.0, seeded(k))
        same += torch.allclose(a, b[..., ::2, ::2], atol=1e-5 * float(a.abs().max()) + 1e-7)
        ratio.append((b.diff(dim=-1).abs().max() / a.diff(dim=-1).abs().max()).item())
    assert same >= 10
    assert max(r for r in ratio[:]) < 1
    assert sorted(ratio)[10] == pytest.approx(0.5, abs=0.1)


def test_an_octave_is_zero_where_the_lattice_is():
    "All that remains at a corner is its own slope times no distance at all."

    class Nowhere:  # a generator that does not shift
        device = torch.device("cpu")

    kept = torch.rand
    try:
        torch.rand = lambda shape, generator=None, device=None: (
            torch.zeros(shape) if tuple(shape) == (1,) else kept(shape, generator=seeded(), device=device)
        )
        p = simplex_octave(5, 32, 8.0, Nowhere())
    finally:
        torch.rand = kept
    assert not p[..., 0, 0].any()
    assert p[..., 3, 2].abs().min() > 0


# ------------------------------------------------------------------------------------------------- denoising
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
    awake("dae", grid=32).net  # any grid up to the size will do
    assert not torch.equal(d.loss(b, seeded(1)), loss) or not torch.equal(spy.seen[0], spy.seen[1])


def test_a_denoiser_adds_no_noise_to_look():
    d, (x, brain) = awake("dae"), toy_slices(2)
    d.net = spy = Spy(lambda x: x)
    assert not maps(d, x, brain).any()
    assert len(spy.seen) == 1
    assert torch.equal(spy.seen[0], x)


# ------------------------------------------------------------------------------------------------- diffusion
def signal_at(t):
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t].float()


def eps_in(x_t, x, t):
    return (x_t - signal_at(t).sqrt() * x) / (1 - signal_at(t)).sqrt()


def asked(prediction, x, eps, t):
    "What a network of this kind should say, by hand: the slice, its noise, or Salimans & Ho's velocity."
    return {"x0": x, "eps": eps, "v": signal_at(t).sqrt() * eps - (1 - signal_at(t)).sqrt() * x}[prediction]


PREDICTS = pytest.mark.parametrize("prediction", ["x0", "eps", "v"])


@ddpms
@PREDICTS
def test_who_knows_the_noise_gives_everything_back(kind, prediction):
    for depth, looks in ((250, 25), (1000, 7), (40, 40), (3, 1)):
        d, (x, brain) = awake(kind, depth=depth, n_steps=looks, prediction=prediction), toy_slices(2)
        eps = eps_in(next(d.denoise(x, brain, None, seeded(5))).x_t.detach(), x, depth - 1)
        for share in (1.0, 0.9):
            d.net = spy = Spy(lambda x_t: share * asked(prediction, x, eps, int(spy.t[-1][0])))
            with torch.no_grad():
                back = d._reconstruct(x, brain, None, seeded(5))
            close = torch.allclose(
                back[brain], x[brain], rtol=0, atol=2e-3 if depth == 1000 else 1e-4
            )  # at the end of the schedule 1% is signal, and rounding grows hundredfold
            assert close == (share == 1), (depth, looks, share)


@ddpms
def test_one_step_deep_is_hardly_wet(kind):
    "One part in ten thousand of the variance is noise: who says there is none is wrong by that noise exactly."
    d, (x, brain) = awake(kind, depth=1, n_steps=1, prediction="eps"), toy_slices(2)
    d.net = Spy()
    with torch.no_grad():
        back, start = d.reconstruct(x, brain, seeded()), next(d.denoise(x, brain, None, seeded())).x_t
    wrong = (back - x)[brain]
    assert wrong.abs().max() < 0.06
    assert 0.005 < wrong.std() < 0.02
    torch.testing.assert_close(
        wrong, (math.sqrt((1 - signal_at(0)) / signal_at(0)) * eps_in(start, x, 0))[brain], rtol=1e-2, atol=1e-4
    )


@ddpms
@pytest.mark.parametrize("depth", [10, 250, 1000])
def test_the_walk_begins_as_deep_as_it_says(kind, depth):
    d, (x, brain) = awake(kind, depth=depth, n_steps=2), toy_slices(2)
    d.net = Spy()
    with torch.no_grad():
        starts = [next(d.denoise(x, brain, None, seeded(k))).x_t for k in range(60)]
    eps = torch.stack([eps_in(s, x, depth - 1) for s in starts])
    torch.testing.assert_close(
        eps[:, 0], eps[:, 1], rtol=1e-2, atol=1e-3
    )  # one noise for all slices: else a slice alone would be another
    near(eps[:, 0].flatten(1).mean(1), 0.0)
    near((eps[:, 0] ** 2).flatten(1).mean(1), 1.0)


@ddpms
@pytest.mark.parametrize(("depth", "looks"), [(250, 25), (100, 4), (9, 9), (7, 3), (1, 1)])
def test_as_many_looks_as_it_says(kind, depth, looks):
    d, (x, brain) = awake(kind, THREE, depth=depth, n_steps=looks, input="t1"), toy_slices(3)
    d.net = spy = Spy()
    with torch.no_grad():
        steps = list(d.denoise(x, brain, d.label(x), seeded()))
    times = time_steps(looks, depth)
    assert len(steps) == len(spy.seen) == looks
    assert [s.t for s in steps] == times
    assert times[0] == depth - 1
    assert [t.tolist() for t in spy.t] == [[t] * 3 for t in times]
    assert all(l.tolist() == [1] * 3 for l in spy.label)
    assert all(torch.equal(s.x_t, seen) for s, seen in zip(steps, spy.seen))
    assert all(torch.equal(a.x_s, b.x_t) for a, b in itertools.pairwise(steps))
    assert all((s.x0[~brain] == -1).all() for s in steps)
    spy.seen.clear()
    maps(d, x, brain)
    assert len(spy.seen) == looks
    assert all(len(s) == 3 for s in spy.seen)


@ddpms
@PREDICTS
def test_the_loss_is_that_of_the_noise(kind, prediction):
    "Ho et al. 2020, equation 14, inside the brain: what the network was shown says which noise was drawn."
    d, b = awake(kind, prediction=prediction), Toy(6).d
    said = torch.randn(6, 1, 32, 32, generator=seeded(9))
    d.net = spy = Spy(lambda x_t: said)
    loss, x_t, t = d.loss(b, seeded()), spy.seen[0], spy.t[0]
    eps = torch.stack([eps_in(x_t[i], b["flair"][i], t[i]) for i in range(6)])
    wanted = (
        sum(((said[i] - asked(prediction, b["flair"][i], eps[i], t[i]))[b["brain"][i]] ** 2).mean() for i in range(6))
        / 6
    )
    torch.testing.assert_close(loss, wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(eps[0], eps[1], atol=0.1)
    assert (lagged(eps).mean() > 0.3) == (kind == "ddpm-simplex")


@ddpms
def test_all_steps_are_learned(kind):
    "Deeper ones too than `depth`, so that the depth can be chosen afterwards."
    d, b = awake(kind, steps=4, depth=2, n_steps=1), Toy(8).d
    d.net = spy = Spy()
    for k in range(100):
        d.loss(b, seeded(k))
    assert (torch.cat(spy.t).bincount(minlength=4) - 200).abs().max() < 5 * math.sqrt(800 * 3 / 16)


def test_only_the_noise_differs(monkeypatch):
    one, other, (x, brain), b = awake("ddpm"), awake("ddpm-simplex"), toy_slices(2), Toy(4).d
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    assert replace(other.config, noise="gaussian") == one.config
    assert not torch.allclose(maps(one, x, brain), maps(other, x, brain))
    assert one.loss(b, seeded()) != other.loss(b, seeded())
    monkeypatch.setitem(bl.NOISES, "simplex", gaussian_noise)
    assert torch.equal(maps(one, x, brain), maps(other, x, brain))
    assert one.loss(b, seeded()) == other.loss(b, seeded())


def test_deeper_is_further_away():
    "A network that has learned nothing gives back the slice and a part of the noise, and the more the deeper it went."
    x, brain = toy_slices(2)
    found = [
        maps(DDPM(size=32, unet=SMALL, prediction="eps", depth=depth, n_steps=1), x, brain)[brain].mean().item()
        for depth in (1, 10, 100, 400)
    ]
    assert found == sorted(found)
    assert found[0] < 1e-3 < found[-1]


# ------------------------------------------------------------------------------------------------- training
def start(method, modalities=THREE, **fields):
    return new_detector(method, 0, **dict(size=32, modalities=modalities) | KINDS[method][1] | fields)


def fit(method, out, config, data=None, modalities=THREE, **kwargs):
    return train(
        start(method, modalities), data or Toy(), Toy(4, seed=9), out, config, progress=False, device="cpu", **kwargs
    )


TWO = TrainConfig(steps=2, batch_size=4, warmup=0, log_every=1, validate_every=2, checkpoint_every=1, val_slices=2)


def test_methods():
    made = {m: start(m, ()) for m in METHOD}
    assert {m: type(d).__name__ for m, d in made.items()} == {
        "ae": "AE",
        "ae-dense": "AE",
        "vae": "AE",
        "dae": "DAE",
        "ddpm": "DDPM",
        "ddpm-simplex": "DDPM",
    }
    plain = {m: new_detector(m).config for m in METHOD}
    assert not plain["ae"].dense
    assert not plain["ae"].sigma
    assert plain["ae-dense"].dense
    assert not plain["ae-dense"].sigma
    assert plain["vae"].dense
    assert plain["vae"].sigma == 0.2
    assert plain["ddpm"].noise == "gaussian"
    assert plain["ddpm-simplex"].noise == "simplex"
    assert new_detector("ddpm-simplex", target="t2").config == plain["ddpm-simplex"]
    for m in METHOD:
        again, other = start(m, ()), new_detector(m, 1, size=32, **KINDS[m][1])
        assert all(torch.equal(v, made[m].state_dict()[k]) for k, v in again.state_dict().items())
        assert any(not torch.equal(v, made[m].state_dict()[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("method", METHOD)
def test_learns(method, tmp_path, modalities=THREE):
    "Thirty steps, and the loss on other slices falls."
    config = TrainConfig(steps=30, batch_size=8, lr=5e-3, warmup=3, ema=0.8, validate_every=30, val_slices=4)
    record = fit(method, tmp_path / "run", config, modalities=modalities)
    log = [l.split(",") for l in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    first = float(log[1][log[0].index("val_loss")])
    assert record["result"]["val_loss"] < 0.9 * first
    again = Detector.from_pretrained(tmp_path / "run")
    assert type(again) is KINDS[method][0]
    assert again.config == start(method, modalities).config
    assert again.threshold > 0
    assert (tmp_path / "run/samples").is_dir()
    assert again.for_modality("t1").calibration is None


class Stops(Toy):
    "Asks the process to stop when the batch of the third step is asked for."

    seen = 0

    def batch(self, indices):
        self.seen += 1 < len(indices) < len(self)
        if self.seen == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(indices)


@pytest.mark.parametrize("method", METHOD)
def test_interrupted_and_resumed(method, tmp_path):
    "Modality, step and noise are drawn anew at each step: after an interruption they are the same, and so is every bit."
    config = replace(TWO, steps=5, checkpoint_every=2, validate_every=5)
    fit(method, tmp_path / "plain", config)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step \d of 5"):
        fit(method, tmp_path / "run", config, Stops())
    assert checkpoints(tmp_path / "run")
    assert not (tmp_path / "run/README.md").exists()
    fit(method, tmp_path / "run", config, resume=True)
    a, b = (tmp_path / n / "model.safetensors" for n in ("plain", "run"))
    assert a.read_bytes() == b.read_bytes()
    assert (tmp_path / "plain/config.json").read_text() == (tmp_path / "run/config.json").read_text()
    assert any(
        not torch.equal(v, start(method).state_dict()[k])
        for k, v in Detector.from_pretrained(tmp_path / "run").state_dict().items()
    )


@pytest.mark.parametrize(("one", "other"), [("ae-dense", "vae"), ("ddpm", "ddpm-simplex"), ("ae", "dae")])
def test_a_run_of_one_is_not_gone_on_with_as_another(one, other, tmp_path):
    fit(one, tmp_path / "run", TWO)
    with pytest.raises(ValueError, match="Cannot go on with the training in"):
        fit(other, tmp_path / "run", TWO, resume=True)


@pytest.mark.parametrize("method", METHOD)
def test_a_modality_that_the_slices_lack(method, tmp_path):
    for modalities, input in (((), "t1ce"), ((*THREE, "t1ce"), "flair")):
        with pytest.raises(ValueError, match="slices for training have no t1ce"):
            train(start(method, modalities, input=input), Toy(), Toy(4), tmp_path / "run", TWO, device="cpu")
    assert not (tmp_path / "run").exists()


@every
def test_the_sample_shows_what_is_given_back(kind, monkeypatch):
    import mmccd.viz as viz

    drawn, show = {}, viz.show_rows
    monkeypatch.setattr(
        viz,
        "show_rows",
        lambda rows, row_titles, **kw: (
            drawn.update(zip(row_titles, rows), kw=kw) or show(rows, row_titles=row_titles, **kw)
        ),
    )
    d, val = awake(kind), Toy(4)
    figure = sample_figure(d, val)
    with torch.no_grad():
        back = d.reconstruct(val.d["flair"], val.d["brain"], seeded())
    assert list(drawn) == ["input flair", "reconstruction", "map", "kw"]
    assert torch.equal(drawn["reconstruction"], back)
    assert torch.equal(drawn["map"], maps(d, val.d["flair"], val.d["brain"]))
    assert drawn["kw"]["vmax"] == [1.0, 1.0, 0.5]
    assert any(t.get_text() == "reconstruction" for a in figure.axes for t in (*a.texts, a.yaxis.label, a.title))
