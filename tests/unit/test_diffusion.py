"Diffusion: equal to the published implementation's arrays and to diffusers; properties for any steps and spacing."

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mmccd.diffusion import (
    PREDICTIONS,
    SCHEDULES,
    SPACINGS,
    alphas_cumprod,
    cosine_betas,
    ddim,
    ddim_step,
    ddpm_posterior,
    extract,
    linear_betas,
    prediction_target,
    q_sample,
    time_steps,
    to_eps,
    to_x0,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "paper_protocol.npz"
ABAR = alphas_cumprod(linear_betas())
relaxed = settings(max_examples=60, deadline=None)  # a busy machine is no bug
NAMES = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}  # ours: theirs
CLOSE = dict(rtol=1e-5, atol=1e-5)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the published implementation's numbers
@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip("the published implementation's numbers are not here")
    with np.load(GOLDEN) as found:
        return {
            k: torch.from_numpy(found[k]) for k in found if k.startswith(("betas", "alphas", "timesteps", "q_", "ddim"))
        }


def test_schedule_is_the_published_one(golden):
    assert_close(linear_betas(), golden["betas"], rtol=1e-5, atol=0)
    assert_close(ABAR, golden["alphas_cumprod"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", [10, 100])
def test_steps_are_the_published_ones(golden, n):
    assert time_steps(n, spacing="leading")[::-1] == golden[f"timesteps_{n}"].tolist()


def test_forward_process_is_the_published_one(golden):
    assert_close(q_sample(golden["q_x0"], golden["q_t"], golden["q_eps"], ABAR), golden["q_xt"], **CLOSE)


def test_sampling_is_the_published_one(golden):
    cond = golden["ddim_cond"].double()

    def toy(x_t, t):
        return torch.tanh(0.6 * x_t + 0.3 * cond + 0.2 * (t / 1000 - 0.5))

    walked = [step.x_s for step in ddim(toy, golden["ddim_xT"].double(), ABAR, time_steps(10, spacing="leading"))]
    assert_close(torch.stack(walked), golden["ddim_trace"].double(), **CLOSE)


# ---- diffusers
@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("diffusers", reason="the library diffusers is not installed")


def scheduler(kind, schedule="linear", prediction="x0", spacing="trailing", abar=None):
    """A scheduler of diffusers, without clipping.

    Its table is in single precision, which predictions of kind "eps" magnify 157 times at the last step; `abar` takes
    its place where steps are compared (`test_schedules` compares the tables)."""
    import diffusers

    s = getattr(diffusers, f"{kind}Scheduler")(
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule={"linear": "linear", "cosine": "squaredcos_cap_v2"}[schedule],
        clip_sample=False,
        prediction_type=NAMES[prediction],
        timestep_spacing=spacing,
    )
    if abar is not None:
        s.alphas_cumprod = abar
    return s


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(library, kind, schedule):
    theirs, betas = scheduler(kind, schedule), SCHEDULES[schedule]()
    assert_close(betas, theirs.betas.double(), **CLOSE)
    assert_close(alphas_cumprod(betas), theirs.alphas_cumprod.double(), **CLOSE)
    assert_close(alphas_cumprod(betas)[:990], theirs.alphas_cumprod.double()[:990], rtol=1e-3, atol=0)  # small ones too


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_add_noise(library, schedule):
    abar, t = alphas_cumprod(SCHEDULES[schedule]()), torch.arange(0, 1000, 27)
    x0, eps = draw(len(t), 1, 4, 4), draw(len(t), 1, 4, 4, seed=1)
    theirs = scheduler("DDPM", schedule, abar=abar)
    assert_close(q_sample(x0, t, eps, abar), theirs.add_noise(x0, eps, t), **CLOSE)
    assert_close(prediction_target("v", x0, eps, t, abar), theirs.get_velocity(x0, eps, t), **CLOSE)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 16, 50, 100, 300, 1000])
def test_spacings(library, n, spacing):
    theirs = scheduler("DDIM", spacing=spacing)
    theirs.set_timesteps(n)
    if (n, spacing) == (1, "linspace"):
        assert theirs.timesteps.tolist() == [0]
        assert time_steps(1, spacing=spacing) == [999]
    else:
        assert time_steps(n, spacing=spacing) == theirs.timesteps.tolist()


def toy(kind):
    "A made-up network of this kind, as theirs is asked: what it says at step `t`."
    return lambda x_t, t: torch.tanh(0.6 * x_t + 0.2 * (t / 1000 - 0.5) + {"x0": 0.0, "eps": 0.3, "v": -0.3}[kind])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddim_step(library, kind, eta, spacing, schedule):
    "Theirs goes from t to t - T/n, which is the next step but with linspace; every step is compared on its own."
    abar, said = alphas_cumprod(SCHEDULES[schedule]()), toy(kind)
    theirs = scheduler("DDIM", schedule, kind, spacing, abar)
    theirs.set_timesteps(20)
    for t in theirs.timesteps.tolist():
        x_t, noise = draw(2, 1, 4, 4, seed=t), draw(2, 1, 4, 4, seed=t + 1)
        out = theirs.step(said(x_t, t), t, x_t, eta=eta, variance_noise=noise if eta else None)
        x0 = to_x0(kind, said(x_t, t), x_t, t, abar)
        assert_close(x0, out.pred_original_sample, **CLOSE)
        assert_close(ddim_step(x0, x_t, t, max(t - 50, -1), abar, eta, noise), out.prev_sample, **CLOSE)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddim_walk(library, kind, eta, spacing):
    "The whole way, with the same noise."
    theirs, said = scheduler("DDIM", "linear", kind, spacing, ABAR), toy(kind)
    theirs.set_timesteps(10)
    x, a, b = draw(2, 1, 4, 4), *(torch.Generator().manual_seed(5) for _ in range(2))
    noises = [torch.randn(x.shape, generator=b).double() for _ in range(10)]
    ours = ddim(
        lambda x_t, t: to_x0(kind, said(x_t, t), x_t, t, ABAR), x, ABAR, time_steps(10, spacing=spacing), eta, a
    )
    for t, noise, step in zip(theirs.timesteps.tolist(), noises, ours, strict=True):
        assert step.t == t
        x = theirs.step(said(x, t), t, x, eta=eta, variance_noise=noise if eta else None).prev_sample
        assert_close(step.x_s, x, **CLOSE)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddpm_step(library, kind, schedule):
    abar, said = alphas_cumprod(SCHEDULES[schedule]()), toy(kind)
    theirs = scheduler("DDPM", schedule, kind, abar=abar)
    for t in (0, 1, 2, 100, 500, 998, 999):
        x_t = draw(2, 1, 4, 4, seed=t)
        out = theirs.step(said(x_t, t), t, x_t, generator=torch.Generator().manual_seed(7))
        mean, variance = ddpm_posterior(to_x0(kind, said(x_t, t), x_t, t, abar), x_t, t, abar)
        assert_close(mean + variance.sqrt() * draw(2, 1, 4, 4, seed=7), out.prev_sample, **CLOSE)


# ---- laws
steps = st.integers(1, 200).flatmap(lambda T: st.tuples(st.integers(1, T), st.just(T)))


@relaxed
@given(steps, st.sampled_from(SPACINGS))
def test_any_steps(nT, spacing):
    n, T = nT
    times = time_steps(n, T, spacing)
    assert len(times) == n
    assert all(type(t) is int for t in times)
    assert all(a > b for a, b in itertools.pairwise(times))
    assert times[-1] >= 0
    assert times[0] < T
    if spacing != "leading":
        assert times[0] == T - 1
    if spacing == "leading" or (spacing == "linspace" and n > 1):
        assert times[-1] == 0
    gaps = {a - b for a, b in itertools.pairwise(times)}
    assert not gaps or max(gaps) - min(gaps) <= (0 if spacing == "leading" else 2)  # even, but for rounding
    if spacing == "trailing":
        assert all(abs(t + 1 - (T - k * T / n)) <= 0.5 + 1e-9 for k, t in enumerate(times))  # to the nearest
    if n == T:
        assert times == list(range(T - 1, -1, -1))


@relaxed
@given(st.integers(-3, 0) | st.integers(51, 60))
def test_too_many_or_few_steps(n):
    with pytest.raises(ValueError, match=f"between 1 and 50, got {n}$"):
        time_steps(n, 50)


@pytest.mark.parametrize(
    "call",
    [
        lambda: time_steps(2, spacing="even"),
        lambda: to_x0("even", *[None] * 4),
        lambda: prediction_target("even", *[None] * 4),
    ],
)
def test_unknown_names(call):
    with pytest.raises(ValueError, match=r"unknown .* 'even': choose .*, "):
        call()


def test_eta_wants_noise():
    with pytest.raises(ValueError, match=r"eta 0\.5 needs noise"):
        ddim_step(draw(1, 1, 2, 2), draw(1, 1, 2, 2), 10, 5, ABAR, 0.5)


@pytest.mark.parametrize("betas", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("T", [1, 2, 10, 1000])
def test_a_schedule_of_any_length(betas, T):
    b = betas(T)
    assert b.shape == (T,)
    assert b.dtype == torch.float64
    assert ((b > 0) & (b < 1)).all()
    assert (b.diff() >= 0).all()


def test_cosine_by_its_definition():
    "abar is the squared cosine over its value at 0, until the largest variance caps it."

    def f(t):
        return np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2

    assert_close(alphas_cumprod(cosine_betas())[:999].numpy(), f(np.arange(1, 1000)) / f(0), rtol=1e-6, atol=0)
    assert cosine_betas()[-1] == 0.999


schedules = st.sampled_from([alphas_cumprod(f()) for f in SCHEDULES.values()])


@relaxed
@given(st.lists(st.integers(-1, 999), min_size=1, max_size=5), schedules)
def test_each_picture_has_its_own_step(ts, abar):
    x0, eps = draw(len(ts), 1, 2, 2), draw(len(ts), 1, 2, 2, seed=1)
    together = q_sample(x0, torch.tensor(ts), eps, abar)
    for i, t in enumerate(ts):
        assert torch.equal(together[i : i + 1], q_sample(x0[i : i + 1], t, eps[i : i + 1], abar))
        if t == -1:
            assert torch.equal(together[i], x0[i])
    assert extract(abar, ts, x0.float()).dtype == torch.float32
    assert extract(abar, ts, x0).shape == (len(ts), 1, 1, 1)


@relaxed
@given(st.integers(0, 999), st.sampled_from(PREDICTIONS))
def test_conversions_undo_each_other(t, kind):
    x0, eps = draw(1, 1, 4, 4, seed=t), draw(1, 1, 4, 4, seed=t + 1)
    x_t = q_sample(x0, t, eps, ABAR)
    assert_close(to_x0(kind, prediction_target(kind, x0, eps, t, ABAR), x_t, t, ABAR), x0)
    assert_close(to_eps(x0, x_t, t, ABAR), eps)


@relaxed
@given(st.integers(0, 999), schedules)
def test_neighbours_by_ddim_are_ddpm(t, abar):
    "eta 1: what is drawn has the posterior's mean and variance."
    x0, x_t, z = (draw(1, 1, 4, 4, seed=s) for s in range(3))
    mean, variance = ddpm_posterior(x0, x_t, t, abar)
    assert_close(ddim_step(x0, x_t, t, t - 1, abar, 1.0, z), mean + variance.sqrt() * z)


@relaxed
@given(
    st.integers(0, 998).flatmap(lambda s: st.tuples(st.just(s), st.integers(s + 1, 999))), st.floats(0, 1), schedules
)
def test_any_step_keeps_the_distribution(st_, eta, abar):
    "Given the truth, the image at s has the mean and the variance of q(x_s | x_0), however much of it is drawn."
    s, t = st_
    x0, none, one = (
        torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64),
        torch.zeros(1, 1, 1, 1, dtype=torch.float64),
        torch.ones(1, 1, 1, 1, dtype=torch.float64),
    )

    def go(eps, z):
        return ddim_step(x0, q_sample(x0, t, eps, abar), t, s, abar, eta, z)

    mean = go(none, none)
    variance = (go(one, none) - mean) ** 2 + (go(none, one) - mean) ** 2  # of the old noise and of the new
    assert_close(mean, q_sample(x0, s, none, abar))
    assert_close(variance.item(), 1 - abar[s].item(), rtol=1e-7, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.sampled_from(SPACINGS), st.floats(0, 1), schedules)
def test_the_last_step_ends_in_x0(n, spacing, eta, abar):
    "The last prediction is the sample, to the bit; and with the truth predicted, nothing leaves its trajectory."
    times, g = time_steps(n, 1000, spacing), torch.Generator().manual_seed(n)
    walked = list(ddim(lambda x_t, t: torch.sin(x_t + t), draw(1, 1, 2, 2), abar, times, eta, g))
    assert torch.equal(walked[-1].x_s, walked[-1].x0)
    assert [s.t for s in walked] == times
    assert all(torch.equal(a.x_s, b.x_t) for a, b in itertools.pairwise(walked))
    truth, eps = draw(1, 1, 2, 2, seed=2), draw(1, 1, 2, 2, seed=3)
    for step in ddim(lambda x_t, t: truth, q_sample(truth, times[0], eps, abar), abar, times):
        assert_close(step.x_t, q_sample(truth, step.t, eps, abar))


def test_the_same_seed_the_same_sample():
    def go(eta, seed):
        return list(
            ddim(
                lambda x_t, t: 0.5 * x_t,
                draw(1, 1, 2, 2),
                ABAR,
                time_steps(5),
                eta,
                torch.Generator().manual_seed(seed),
            )
        )[-1].x_s

    assert torch.equal(go(1.0, 0), go(1.0, 0))
    assert not torch.equal(go(1.0, 0), go(1.0, 1))
    assert torch.equal(go(0.0, 0), go(0.0, 1))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_root_of_a_negative_number(schedule):
    "In single precision the share of the old noise may round to just below 0, where nearly all is drawn anew."
    abar, x = alphas_cumprod(SCHEDULES[schedule]()).float(), torch.ones(1, 1, 1, 1)
    for s in range(0, 900, 9):
        t = torch.arange(s + 1, 1000)
        assert ddim_step(x.expand(len(t), 1, 1, 1), 2 * x, t, s, abar, 1.0, x).isfinite().all()


@pytest.mark.parametrize(("n", "low", "high"), [(1, 0.0, 0.01), (10, 0.3, 0.4), (300, 0.48, 0.51)])
def test_width_of_a_bell(n, low, high):
    "With the exact denoiser of N(.5, .5 squared): one step gives the mean, few too little variety, many the data's."

    def exact(x_t, t):
        a = extract(ABAR, t, x_t)
        return 0.5 + a.sqrt() * 0.25 / (a * 0.25 + 1 - a) * (x_t - a.sqrt() * 0.5)

    ends = torch.cat(
        [
            list(ddim(exact, torch.full((1, 1, 1, 1), v, dtype=torch.float64), ABAR, time_steps(n)))[-1].x_s
            for v in (-1.0, 1.0)
        ]
    )
    assert abs(ends.mean() - 0.5) < 0.01
    assert low <= (ends[1] - ends[0]).item() / 2 <= high
