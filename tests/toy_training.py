"""A training small enough for most tests: slices in memory, a detector of some hundred weights, 12 steps."""

import csv
from collections import namedtuple
from pathlib import Path

import torch
from detector_laws import toy_slices

from mmccd.training.checkpoint import checkpoints
from mmccd.training.run import train
from mmccd.training_loop import ToyCycle, TrainConfig

QUICK = TrainConfig(steps=12, batch_size=8, warmup=3, log_every=3, checkpoint_every=4, validate_every=6, val_slices=8)
Row = namedtuple("Row", "id place brain_cm2 lesion_cm2 index")


class Toy:
    "Slices in memory: T2 is a function of FLAIR."

    def __init__(self, n=24, size=32, seed=0):
        x, brain = toy_slices(n, size, size, seed)
        t2 = torch.where(brain, torch.sin(2 * x), -1.0)
        self.d = {"flair": x, "t2": t2, "brain": brain, "lesion": brain & (x > 0.9)}

    def __len__(self):
        return len(self.d["brain"])

    def batch(self, indices):
        return {k: v[indices] for k, v in self.d.items()}


class Calls(Toy):
    """Does something when the batch of a certain step is read; `at` holds what, by step.

    Only batches of the training count: one slice is read to check the data, all slices for its record.
    """

    at, seen = {}, 0

    def batch(self, indices):
        if 1 < len(indices) < len(self):
            self.seen += 1
            self.at.get(self.seen, lambda: None)()
        return super().batch(indices)


class Noisy(ToyCycle):
    "Draws from the generator and from PyTorch's own random state."

    def loss(self, batch, generator=None):
        x = torch.nn.functional.dropout(batch["flair"], 0.2, self.training)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        return super().loss(batch | {"flair": x + 0.1 * noise})


def detector(cls=Noisy, seed=0, **config):
    torch.manual_seed(seed)
    return cls(size=32, width=4, kernel=3, **config)


def fit(out, config=QUICK, data=None, val=None, cls=Noisy, **kwargs):
    data, val = data or Toy(), val or Toy(8, seed=1)
    return train(detector(cls), data, val, out, config, progress=False, device="cpu", **kwargs)


def log(out):
    "The log of a run but for the seconds."
    with open(Path(out) / "log.csv") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def weights(out):
    return (Path(out) / "model.safetensors").read_bytes()


def everything(out):
    "All of a run that must not depend on what happened to it on the way."
    return weights(out), (Path(out) / "config.json").read_text(), log(out), [p.name for p in checkpoints(Path(out))]


def of_subjects(data, *ids, lesion=0.0):
    "The data set, which now knows whose slices it holds, and what they show; `lesion` is the area in one of them."
    data.ids = list(ids)
    data.rows = [Row(ids[i % len(ids)], 74, 90.0, lesion if i == 5 else 0.0, i) for i in range(len(data))]
    return data
