"From an error to a map: smoothing inside the brain, the expected error, and what every reconstructing detector has."

from dataclasses import asdict

import pytest
import torch
import toy_data
from detector_laws import check_detector, maps, toy_slices
from toy_reconstructions import NARROW, SMALL, THREE

from mmccd.baselines import AE, DAE
from mmccd.cycle import CyclicUNet
from mmccd.detector import calibrate, fingerprint, load_detector, non_defaults, save_variants, with_config
from mmccd.error_map import (
    ErrorMapConfig,
    ExpectedError,
    expected_error_loss,
    fit_expected_error,
    healthy_errors,
    smooth_error,
)
from mmccd.masked_diffusion import MMCCD, MaskedUNet
from mmccd.masked_translation import Sampler
from mmccd.partial_diffusion import DDPM
from mmccd.runtime import single_thread

ON = ErrorMapConfig(window=3, how="median", expected=True)
PAIR = dict(input="flair", target="t2", size=32, unet=SMALL)
MAKERS = {
    "ae": lambda **k: AE(size=32, unet=NARROW, latent=4, **k),
    "dae": lambda **k: DAE(size=32, unet=SMALL, grid=8, modalities=THREE, **k),
    "ddpm": lambda **k: DDPM(size=32, unet=SMALL, depth=100, n_steps=2, **k),
    "cycle": lambda **k: CyclicUNet(**PAIR, **k),
    "shared cycle": lambda **k: CyclicUNet(**PAIR, modalities=THREE, **k),
    "masked": lambda **k: MaskedUNet(**PAIR, **k),
    "mmccd": lambda **k: MMCCD(**PAIR, modalities=THREE, sampler=Sampler(n_strips=4), **k),
}
every = pytest.mark.parametrize("name", MAKERS)


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(name, **options):
    "A detector whose layers that start at zero do something."
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        d = MAKERS[name](**options)
        for p in d.parameters():
            if not p.any():
                p.data = 0.05 * torch.randn(p.shape)
    return d.eval()


def fitted(name, steps=3, n=4):
    return fit_expected_error(awake(name, error=ON), toy_data.Toy(n).d, generator(), steps=steps)


# smoothing


@pytest.mark.parametrize("how", ["mean", "median"])
def test_a_constant_stays_and_the_background_is_not_felt(how):
    x, brain = toy_slices(2)
    assert torch.allclose(smooth_error(torch.full_like(x, 0.3), brain, 5, how)[brain], torch.tensor(0.3))
    e = x**2
    noisy = torch.where(brain, e, 1e6)
    assert torch.equal(smooth_error(noisy, brain, 3, how), smooth_error(e, brain, 3, how))
    assert not smooth_error(noisy, brain, 3, how)[~brain].any()


@pytest.mark.parametrize("how", ["mean", "median"])
def test_a_window_is_what_it_says(how):
    e, brain = torch.rand(1, 1, 9, 9, generator=generator()), torch.rand(1, 1, 9, 9, generator=generator(1)) > 0.3
    a = smooth_error(e, brain, 5, how)
    for i, j in brain[0, 0].nonzero().tolist():
        near = (..., slice(max(i - 2, 0), i + 3), slice(max(j - 2, 0), j + 3))
        values = e[near][brain[near]]
        wanted = values.mean() if how == "mean" else values.median()
        assert abs(a[0, 0, i, j] - wanted) < 1e-5


@pytest.mark.parametrize("fields", [{"window": 4}, {"how": "min"}])
def test_wrong_settings_are_refused(fields):
    with pytest.raises(ValueError, match=r"odd|unknown way"):
        ErrorMapConfig(**fields)


# every detector


@every
def test_off_is_the_plain_error(name):
    d, (x, brain) = awake(name), toy_slices(2)
    error, reconstruction = d.errors(x, brain, generator())
    assert torch.equal(torch.where(brain, error, 0.0), maps(d, x, brain))
    assert (reconstruction[~brain] == -1).all()
    assert "error" not in non_defaults(d.config)
    assert not [k for k in d.state_dict() if "expected" in k]


@every
def test_on_divides_and_smooths(name):
    d, (x, brain) = fitted(name), toy_slices(2, seed=5)
    assert d.variant in d.variants
    with torch.no_grad():
        error, reconstruction = d.errors(x, brain, generator())
        wanted = smooth_error(error / d.expect(reconstruction, brain), brain, 3, "median")
    torch.testing.assert_close(maps(d, x, brain), wanted)


@pytest.mark.parametrize("name", ["dae", "mmccd"])
def test_properties(name, tmp_path):
    check_detector(fitted(name), tmp_path / "d")


@every
def test_the_first_weights_of_the_networks_do_not_depend_on_it(name):
    without, with_it = awake(name).state_dict(), awake(name, error=ON).state_dict()
    assert without.keys() < with_it.keys()
    torch.manual_seed(3)
    a = MAKERS[name]().state_dict()
    torch.manual_seed(3)
    b = MAKERS[name](error=ON).state_dict()
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_the_map_of_a_masked_cycle_is_of_one_pass():
    d, (x, brain) = awake("mmccd"), toy_slices(2)
    error, reconstruction = d.errors(x, brain, generator())
    assert torch.equal(error, d.maps(x, brain, generator())[0])
    assert torch.equal(reconstruction[brain], d.maps(x, brain, generator(), what="reconstruction")[0][brain])


def test_targets_are_averaged_over_their_own_maps():
    d, (x, brain) = fitted("mmccd"), toy_slices(2)
    both = with_config(d, extra_targets=("t1",))
    wanted = (maps(d, x, brain) + maps(d.for_pair("flair", "t1"), x, brain)) / 2
    torch.testing.assert_close(maps(both, x, brain), wanted)


# the expected error


def test_the_mean_has_the_least_loss():
    g = generator()
    level = torch.rand(1, 1, 16, 16, generator=g) + 0.1
    error = (level * torch.randn(64, 1, 16, 16, generator=g) ** 2).clamp(min=1e-6)
    brain, mean = torch.ones_like(error, dtype=torch.bool), error.mean(0, keepdim=True).expand_as(error)
    losses = {f: expected_error_loss(f * mean, error, brain).item() for f in (0.8, 1.0, 1.25)}
    assert min(losses, key=losses.get) == 1.0
    small = expected_error_loss(mean / 100, error / 100, brain).item()
    assert abs(small + torch.tensor(100.0).log().item() - losses[1.0]) < 1e-4


def test_it_learns_where_errors_are_large():
    "Where the reconstruction is bright, the error is ten times as large."
    d, data = awake("ae", error=ErrorMapConfig(expected=True)), toy_data.Toy(12)
    x, brain = data.d["flair"], data.d["brain"]
    d.errors = lambda x, brain, g=None: (torch.where(x > 0, 0.5, 0.05) * torch.ones_like(x), torch.where(brain, x, -1))
    fit_expected_error(d, data.d, generator(), steps=60)
    with torch.no_grad():
        m = d.expect(x, brain)
    dark, bright = m[brain & (x < -0.2)].mean(), m[brain & (x > 0.2)].mean()
    assert dark < 0.15
    assert bright > 0.3


def test_a_seed_gives_one_result():
    a, b = fitted("shared cycle"), fitted("shared cycle")
    assert fingerprint(a) == fingerprint(b)
    again = fit_expected_error(a, toy_data.Toy(4).d, generator(), steps=3)
    assert fingerprint(again) == fingerprint(b)
    assert again.calibration is None


def test_a_detector_without_it_is_refused():
    with pytest.raises(ValueError, match=r"needs error\.expected"):
        fit_expected_error(awake("dae"), toy_data.Toy(2).d)


def test_variants_are_learned_with_labels_of_their_own():
    d, data = awake("dae", error=ON), toy_data.Toy(3).d
    *_, label = healthy_errors(d, data)
    assert label.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    error, *_, label = healthy_errors(d, data, variants=(("t2",),))
    assert label.tolist() == [2] * 3
    assert torch.equal(error, d.for_modality("t2").errors(data["t2"], data["brain"])[0])


def test_no_coordinates():
    net, x = ExpectedError(), torch.full((1, 1, 64, 64), -1.0)
    x[..., 24:40, 20:36] = torch.rand(16, 16, generator=generator())

    def shift(v):
        return v.roll((4, 8), (-2, -1))

    with torch.no_grad():
        here, there = (net(v, v != -1, torch.tensor([0])) for v in (x, shift(x)))
    inner = (..., slice(28, 44), slice(28, 44))
    torch.testing.assert_close(shift(here)[inner], there[inner])


@every
def test_kept_and_loaded(name, tmp_path):
    d, (x, brain) = fitted(name), toy_slices(2)
    calibrate(d, x, brain)
    d.save_pretrained(tmp_path / "d")
    again = load_detector(tmp_path / "d")
    assert again.config == d.config
    assert asdict(again.config)["error"] == {"window": 3, "how": "median", "expected": True}
    assert torch.equal(maps(again, x, brain), maps(d, x, brain))
    assert again.threshold == d.threshold


def test_variants_share_it_in_one_folder(tmp_path):
    d, (x, brain) = fitted("dae"), toy_slices(2)
    save_variants({m: d.for_modality(m) for m in THREE}, tmp_path / "d")
    for m in THREE:
        assert torch.equal(maps(load_detector(tmp_path / "d", variant=m), x, brain), maps(d.for_modality(m), x, brain))


def test_a_file_with_a_wrong_window_is_refused(tmp_path):
    folder = awake("dae").save_pretrained(tmp_path / "d")
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"window": 1', '"window": 1000'))
    with pytest.raises(ValueError, match="window"):
        load_detector(folder)
