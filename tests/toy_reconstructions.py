"Small reconstructing detectors of every kind, slices in memory, and a network that records what it is given."

import math

import pytest
import torch
import toy_data
from torch import nn

from mmccd.baselines import AE, DAE
from mmccd.itermask import IterMask
from mmccd.partial_diffusion import DDPM
from mmccd.registry import METHODS
from mmccd.unet import UNetConfig

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
    "itermask": (IterMask, dict(unet=SMALL, cutoff=6.0)),
}
METHOD = [k for k in KINDS if k in METHODS]
every, ddpms = pytest.mark.parametrize("kind", KINDS), pytest.mark.parametrize("kind", ["ddpm", "ddpm-simplex"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(kind, modalities=(), seed=0, **config):
    "A detector without zero weights: a new network predicts 0 everywhere."
    cls, fields = KINDS[kind]
    d, g = cls(**dict(size=32, modalities=modalities) | fields | config), seeded(seed)
    for p in d.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=g)
    return d.eval()


class Toy(toy_data.Toy):
    "Slices that are alike and yet different."

    def __init__(self, n=12, seed=0):
        super().__init__(n, seed, lambda x: 0.3 * x + torch.linspace(-2, 2, 32).sin())


class Spy(nn.Module):
    "Takes the place of a network, records its inputs, and predicts what it was made to."

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


def lagged(p, k=1):
    "Correlation of each pixel with the one `k` to the right, one number a picture."
    return (p[..., k:] * p[..., :-k]).flatten(1).mean(1) / (p**2).mean()
