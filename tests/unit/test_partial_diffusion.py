"Simplex noise, and diffusion part of the way, compared with the formulas they claim."

import itertools
import math
from dataclasses import replace

import pytest
import torch
from detector_laws import maps, toy_slices
from toy_reconstructions import (
    SMALL,
    THREE,
    Spy,
    Toy,
    awake,
    ddpms,
    lagged,
    near,
    seeded,
)

import mmccd.partial_diffusion as pd
from mmccd.baselines import (
    coarse_noise,
    gaussian_noise,
)
from mmccd.diffusion import time_steps
from mmccd.partial_diffusion import DDPM, simplex_noise, simplex_octave
from mmccd.runtime import single_thread


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


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
    "One number for each call: the images of one call share the lattice, so their local strength is not independent."
    calls = [noise(4, size, seeded(k)) for k in range(60)]
    near(torch.stack([c.mean() for c in calls]), 0.0)
    near(torch.stack([(c**2).mean() for c in calls]), 1.0)


def test_octaves_and_persistence_keep_the_variance():
    for fields in (dict(octaves=1), dict(octaves=3, persistence=0.5), dict(octaves=2, persistence=1.0)):
        near(torch.stack([(simplex_noise(4, 64, seeded(k), **fields) ** 2).mean() for k in range(60)]), 1.0)
    rough = [lagged(simplex_noise(20, 64, seeded(), octaves=n)).mean() for n in (1, 3, 5)]
    assert rough[0] > rough[1] > rough[2]


def test_variance_of_an_octave():
    "A corner adds fade^2 times half its squared distance; there are sqrt(3) corners per unit of area."
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
    "Twice as many pixels a period: the same field at every second pixel, and half the difference between neighbours."
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


def signal_at(t):
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t].float()


def eps_in(x_t, x, t):
    return (x_t - signal_at(t).sqrt() * x) / (1 - signal_at(t)).sqrt()


def target(prediction, x, eps, t):
    "What a network should predict, by hand: the slice, its noise, or Salimans & Ho's velocity."
    return {"x0": x, "eps": eps, "v": signal_at(t).sqrt() * eps - (1 - signal_at(t)).sqrt() * x}[prediction]


class Knows(torch.nn.Module):
    "Predicts the truth, times `share`."

    def __init__(self, prediction, x, eps, share):
        super().__init__()
        self.truth, self.share = (prediction, x, eps), share

    def forward(self, x_t, t, label=None):
        return self.share * target(*self.truth, int(t[0]))


PREDICTS = pytest.mark.parametrize("prediction", ["x0", "eps", "v"])


@ddpms
@PREDICTS
def test_with_known_noise_the_slice_is_returned(kind, prediction):
    for depth, n_steps in ((250, 25), (1000, 7), (40, 40), (3, 1)):
        d, (x, brain) = awake(kind, depth=depth, n_steps=n_steps, prediction=prediction), toy_slices(2)
        eps = eps_in(next(d.denoise(x, brain, None, seeded(5))).x_t.detach(), x, depth - 1)
        for share in (1.0, 0.9):
            d.net = Knows(prediction, x, eps, share)
            with torch.no_grad():
                back = d._reconstruct(x, brain, None, seeded(5))
            close = torch.allclose(
                back[brain], x[brain], rtol=0, atol=2e-3 if depth == 1000 else 1e-4
            )  # at the end of the schedule 1% is signal, and rounding grows hundredfold
            assert close == (share == 1), (depth, n_steps, share)


@ddpms
def test_one_step_deep_adds_hardly_any_noise(kind):
    "One part in ten thousand of the variance is noise: predicting none is wrong by that noise exactly."
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
def test_denoising_begins_as_deep_as_it_says(kind, depth):
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
@pytest.mark.parametrize(("depth", "n_steps"), [(250, 25), (9, 9), (7, 3), (1, 1)])
def test_as_many_steps_as_it_says(kind, depth, n_steps):
    d, (x, brain) = awake(kind, THREE, depth=depth, n_steps=n_steps, input="t1"), toy_slices(3)
    d.net = spy = Spy()
    with torch.no_grad():
        steps = list(d.denoise(x, brain, d.label(x), seeded()))
    times = time_steps(n_steps, depth)
    assert len(steps) == len(spy.seen) == n_steps
    assert [s.t for s in steps] == times
    assert times[0] == depth - 1
    assert [t.tolist() for t in spy.t] == [[t] * 3 for t in times]
    assert all(label.tolist() == [1] * 3 for label in spy.label)
    assert all(torch.equal(s.x_t, seen) for s, seen in zip(steps, spy.seen))
    assert all(torch.equal(a.x_s, b.x_t) for a, b in itertools.pairwise(steps))
    assert all((s.x0[~brain] == -1).all() for s in steps)
    spy.seen.clear()
    maps(d, x, brain)
    assert len(spy.seen) == n_steps
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
        sum(((said[i] - target(prediction, b["flair"][i], eps[i], t[i]))[b["brain"][i]] ** 2).mean() for i in range(6))
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
    monkeypatch.setitem(pd.NOISES, "simplex", gaussian_noise)
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
