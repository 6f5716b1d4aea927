"""Which small U-Net learns most in a given time, on one core."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from evidence import MODALITIES, Job, span

from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceDataset, SliceStore
from mmccd.cases.subjects import split_subjects
from mmccd.runtime import derive_seed, single_thread
from mmccd.schemas import checked
from mmccd.training_loop import TrainConfig, batch_indices, ema_average, masked_mean
from mmccd.unet import UNet, UNetConfig, count_parameters, preset

PAIRS = list(itertools.permutations(MODALITIES, 2))


@dataclass(frozen=True)
class Options:
    """What the recipe says: healthy phantoms and their axial places, CPU seconds a network, learning rate, networks."""

    phantoms: dict[str, Any]
    seconds: float
    lr: float
    networks: dict[str, dict[str, Any]]  # what differs from the preset "tiny"
    places: tuple[int, int] = (70, 89)


def ends(batch: dict, labels: torch.Tensor) -> list[torch.Tensor]:
    """Input and target of each slice, as its label says."""
    stack, rows = torch.stack([batch[m] for m in MODALITIES], 1), torch.arange(len(labels))
    both = torch.tensor([[MODALITIES.index(m) for m in p] for p in PAIRS])[labels]
    return [torch.where(batch["brain"], stack[rows, both[:, k]], -1.0) for k in (0, 1)]


@torch.no_grad()
def validation_errors(net: UNet, val: SliceDataset) -> dict[str, float]:
    """Mean squared error inside the brain of subjects that the network has not seen, by pair."""
    net.eval()
    batch, errors = val.batch(range(len(val))), {}
    for k, pair in enumerate(PAIRS):
        labels = torch.full((len(val),), k)
        x, y = ends(batch, labels)
        out = torch.cat([net(a, label=b) for a, b in zip(x.split(16), labels.split(16))])
        errors["-".join(pair)] = masked_mean((out - y) ** 2, batch["brain"]).item()
    return errors


def learn(config: UNetConfig, data: SliceDataset, val: SliceDataset, seconds: float, lr: float) -> dict[str, Any]:
    """Train all six pairs at once, the pair as label, with a learning rate that falls over so many CPU seconds."""
    torch.manual_seed(derive_seed(0, "weights"))
    net, settings = UNet(config), TrainConfig(batch_size=16, seed=0)
    average = torch.optim.swa_utils.AveragedModel(net, avg_fn=lambda a, b, n: ema_average(a, b, n, 0.995))
    optimizer, step, begin = torch.optim.AdamW(net.parameters(), lr=lr), 0, time.process_time()
    while (spent := (time.process_time() - begin) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * spent)) / 2
        batch = data.batch(batch_indices(len(data), settings, step))
        draw = torch.Generator().manual_seed(derive_seed(0, "step", step))
        labels = torch.randint(len(PAIRS), (16,), generator=draw)
        x, y = ends(batch, labels)
        loss = masked_mean((net(x, label=labels) - y) ** 2, batch["brain"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(net)
        step += 1
    errors = validation_errors(average.module, val)
    mean = sum(errors.values()) / len(errors)
    return {"parameters": count_parameters(net), "steps": step, "val_loss": mean, "pairs": errors}


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Train every network for the same CPU time on the same slices."""
    o = checked(options, Options, "the recipe", "correct that option")
    phantoms = Phantoms(**o.phantoms)
    place = job.work / f"unets-{phantoms.seed}.zarr"
    prepare(phantoms, place, slices=span(o.places), modalities=MODALITIES, jobs=job.jobs)
    store = SliceStore(place)
    parts, found = split_subjects(store.ids, val=0.15), {}
    data, val = (store.dataset(parts[k]) for k in ("train", "val"))
    for name, changes in o.networks.items():
        with single_thread():
            config = preset(
                "tiny", labels=len(PAIRS), **{k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
            )
            row = found[name] = learn(config, data, val, o.seconds, o.lr)
        job.say(f"{name:38} {row['parameters']:8,} parameters, {row['steps']:5} steps, loss {row['val_loss']:.4f}")
    about = {"seed": phantoms.seed, "seconds": float(o.seconds)}
    return about | {"train": data.describe(), "validation": val.describe(), "networks": found}
