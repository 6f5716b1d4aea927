"""Properties that every detector has. The test of a new one calls `check_detector(detector, folder)`, which is all that
the interface needs.

`detector` is calibrated or not, on the CPU, and small enough to make a dozen maps of 32x32 slices."""

import json
import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from mmccd.detector import Detector, calibrate, fingerprint


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


def toy_slices(b=3, h=32, w=32, seed=0):
    "Slices (b 1 h w) with smooth tissue in about [-1, 1], background -1, and their brain mask."
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    brain = ((x / 0.8) ** 2 + (y / 0.9) ** 2 < 1).expand(b, 1, h, w).clone()
    tissue = torch.randn(b, 1, h // 4, w // 4, generator=g) / 2
    tissue = torch.nn.functional.interpolate(tissue, (h, w), mode="bilinear") + 0.02 * torch.randn(
        b, 1, h, w, generator=g
    )
    return torch.where(brain, tissue, -1.0), brain


def maps(detector, x, brain=None, seed=0):
    return detector.anomaly_map(x, brain, generator=torch.Generator().manual_seed(seed))


def law_non_negative_and_zero_outside(detector, x, brain):
    a = maps(detector, x, brain)
    assert a.shape == x.shape
    assert a.dtype == torch.float32
    assert not a.requires_grad
    assert a.isfinite().all(), "a map is finite"
    assert (a >= 0).all(), "a map is not negative"
    assert (a[~brain] == 0).all(), "a map is exactly zero outside the brain"
    assert a[brain].any(), "a map that is zero everywhere says nothing"


def law_alone_is_as_in_a_batch(detector, x, brain):
    together = maps(detector, x, brain)
    for i in range(len(x)):
        alone = maps(detector, x[i : i + 1], brain[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps(detector, x.flip(0), brain.flip(0)).flip(0), together, rtol=1e-5, atol=1e-5)


def law_other_cases_do_not_matter(detector, x, brain):
    odd = x.clone()
    odd[-1][brain[-1]] *= 50  # one patient with extreme intensities
    torch.testing.assert_close(maps(detector, odd, brain)[:-1], maps(detector, x, brain)[:-1], rtol=1e-5, atol=1e-5)


def law_deterministic_given_a_generator(detector, x, brain):
    before = torch.random.get_rng_state()
    first = maps(detector, x, brain)
    assert torch.equal(torch.random.get_rng_state(), before), "the global random state was touched"
    torch.manual_seed(123)
    torch.testing.assert_close(maps(detector, x, brain), first, rtol=0, atol=0)


def law_input_not_modified(detector, x, brain):
    x0, brain0, mode = x.clone(), brain.clone(), detector.training
    weights = {k: v.clone() for k, v in detector.state_dict().items()}
    maps(detector, x, brain)
    assert torch.equal(x, x0)
    assert torch.equal(brain, brain0)
    assert detector.training == mode
    assert all(torch.equal(v, weights[k]) for k, v in detector.state_dict().items()), "scoring changed the weights"


def law_same_map_while_training(detector, x, brain):
    kept, mode = maps(detector.eval(), x, brain), detector.training
    torch.testing.assert_close(maps(detector.train(), x, brain), kept, rtol=0, atol=0)
    assert detector.training, "asking for a map switched training off"
    detector.train(mode)


def law_mask_read_off_the_background(detector, x, brain):
    torch.testing.assert_close(maps(detector, x), maps(detector, x, brain), rtol=0, atol=0)


def law_no_brain_no_anomaly(detector, x, brain):
    assert not maps(detector, torch.full_like(x, -1)).any()
    assert maps(detector, x[:0], brain[:0]).shape == (0, *x.shape[1:])


def law_plain_errors(detector, x, brain):
    nan = x.clone()
    nan[0, 0, 5, 5] = torch.nan
    bad = [
        (x[0], brain[0], "(b 1 h w)"),
        (x.repeat(1, 2, 1, 1), brain, "(b 1 h w)"),
        (nan, brain, "NaN"),
        (x / 0, brain, "infinite"),
        (x.long(), brain, "floating"),
        (x, brain[..., 1:], "mask"),
        (x.numpy(), brain, "tensor"),
    ]
    for xs, mask, word in bad:
        with pytest.raises(ValueError, match=re.escape(word)) as e:
            maps(detector, xs, mask)
        assert "\n" not in str(e.value)


def law_save_and_load(detector, x, brain, folder):
    if detector.calibration is None:
        calibrate(detector, x, brain, 0.05, "toy", torch.Generator().manual_seed(0))
    detector.save_pretrained(folder)
    again = Detector.from_pretrained(folder)
    assert type(again) is type(detector)
    assert again.config == detector.config
    assert again.calibration == detector.calibration
    assert fingerprint(again) == fingerprint(detector)
    assert not again.training
    torch.testing.assert_close(maps(again, x, brain), maps(detector.eval(), x, brain), rtol=0, atol=0)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    json.loads((folder / "config.json").read_text())


def law_calibration_keeps_its_rate(detector, x, brain):
    for fpr in (0.01, 0.2):
        calibrate(detector, x, brain, fpr, "toy", torch.Generator().manual_seed(0))
        a = maps(detector, x, brain)
        assert detector.segment(a)[brain].float().mean() <= fpr
        assert {"threshold", "fpr", "data", "pixels", "slices"} <= set(detector.calibration)
        assert not detector.segment(a)[~brain].any()


LAWS = [
    law_non_negative_and_zero_outside,
    law_alone_is_as_in_a_batch,
    law_other_cases_do_not_matter,
    law_deterministic_given_a_generator,
    law_input_not_modified,
    law_same_map_while_training,
    law_mask_read_off_the_background,
    law_no_brain_no_anomaly,
    law_plain_errors,
]


def check_detector(detector, folder, calibrates=True, seed=0, **size):
    "All laws for one detector; `calibrates=False` for a map whose threshold is given by definition."
    x, brain = toy_slices(2, seed=seed, **size)
    detector.eval()
    for law in LAWS:
        law(detector, x.clone(), brain.clone())
    law_save_and_load(detector, x, brain, folder)
    if calibrates:
        law_calibration_keeps_its_rate(detector, x, brain)
