"""What sharpens the imagination of a masked network: one choice changed at a time, each for the same time of a core."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from evidence import Job, in_parallel

from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceDataset, SliceStore
from mmccd.files import round_floats, to_json, write_atomic
from mmccd.masked_diffusion import MMCCD, MMCCDConfig, imagination_of, load_start
from mmccd.runtime import derive_seed
from mmccd.schemas import checked
from mmccd.slices import resize, resize_labels
from mmccd.training_loop import ema_average, shuffled
from mmccd.unet import count_parameters


@dataclass(frozen=True)
class Training:
    """How one network is trained.

    Attributes:
        config: Fields of its `MMCCDConfig`; those of `imagination` and `f_unet` are put over those of the base.
        heads: How many heads it learns from; 0: all that there are.
        start: The arm whose network it begins with; that one gets half of the time, and so does this one.
        steps: Of denoising, with which it is measured.
        lr: Learning rate after the warm-up.
        batch_size: Slices a step.
        seed: Of first weights, order, masks and noise.
    """

    config: dict[str, Any] = field(default_factory=dict)
    heads: int = 0
    start: str = ""
    steps: list[int] = field(default_factory=lambda: [1])
    lr: float = 1e-3
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Options:
    """What the recipe says.

    Attributes:
        train: Healthy phantoms to learn from: arguments of `Phantoms`.
        validation: The same for others.
        places: First and last axial place of all slices.
        size: Pixels along a side of the slices that networks see; the stores have 64.
        modalities: Which.
        seconds: Time of a core that each arm gets.
        measured: Slices that the curves are measured on; the end is measured on `final` slices.
        base: What all arms have in common.
        arms: By name, what is different.
    """

    train: dict[str, Any]
    validation: dict[str, Any]
    places: list[int]
    size: int
    modalities: list[str]
    seconds: float
    measured: int
    final: int
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The base with changes, dictionaries inside it alike."""
    both = {k for k in base if isinstance(base[k], dict) and isinstance(changes.get(k), dict)}
    return base | changes | {k: merged(base[k], changes[k]) for k in both}


def open_store(path: Path, wanted: dict[str, Any], o: Options, jobs: int) -> Path:
    """The store of some phantoms, made or completed."""
    places = range(o.places[0], o.places[1] + 1)
    prepare(Phantoms(**wanted), path, size=64, slices=places, modalities=o.modalities, jobs=jobs)
    return path


def training(o: Options, name: str) -> Training:
    """How the network of an arm is trained."""
    return checked(merged(o.base, o.arms[name]), Training, f"the arm {name}", "correct that option")


def new_detector(t: Training) -> MMCCD:
    """The untrained detector of an arm; its decoder is not used."""
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(t.seed, "weights"))
        return MMCCD(MMCCDConfig(**t.config | {"frozen_decoder": True}))


class Slices:
    """Slices of a store in memory, at another size."""

    def __init__(self, data: SliceDataset, size: int):
        parts = [data.batch(k.tolist()) for k in torch.arange(len(data)).split(512)]
        brain = torch.cat([p["brain"] for p in parts])
        self.slices = {"brain": resize_labels(brain, size)}
        for m in data.modalities:
            self.slices[m] = torch.cat([resize(p[m], size, -1.0) for p in parts])

    def __len__(self) -> int:
        return len(self.slices["brain"])

    def batch(self, indices: Iterable[int]) -> dict[str, torch.Tensor]:
        indices = torch.as_tensor(list(indices))
        return {k: v[indices] for k, v in self.slices.items()}

    def some(self, n: int) -> dict[str, torch.Tensor]:
        """Some `n` slices of all heads and places, always the same."""
        return self.batch(torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:n].tolist())


def batches(data: Slices, size: int, seed: int) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Step and batch, for ever, each pass over the data in another order."""
    step = 0
    while True:
        places = range(step * size, (step + 1) * size)
        yield step, data.batch([shuffled(len(data), seed, k // len(data))[k % len(data)] for k in places])
        step += 1


def optimizer_step(
    d: MMCCD, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], generator: torch.Generator
) -> float:
    """One step of the training in bfloat16; its loss."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = d.loss(batch, generator)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(d.f.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def seconds_a_step(d: MMCCD, data: Slices, t: Training, tries: int = 12) -> float:
    """What a step costs on a core that has nothing else to do: the quickest of some, as others only take time away."""
    trial = copy.deepcopy(d)
    optimizer, times = torch.optim.AdamW(trial.f.parameters(), lr=t.lr), []
    for step, batch in batches(data, t.batch_size, t.seed):
        began = time.process_time()
        optimizer_step(trial, optimizer, batch, torch.Generator().manual_seed(step))
        times.append(time.process_time() - began)
        if step == tries:
            return min(times)
    raise AssertionError("the batches end")


def learn(d: MMCCD, data: Slices, t: Training, seconds: float, watch: Any) -> tuple[MMCCD, list[dict]]:
    """Train for as many steps as fit into some seconds of a core; the averaged detector and its curve.

    The learning rate rises over 50 steps, and falls to 0 along a cosine.

    Args:
        watch: Function of a detector; what it returns goes into the curve.
    """
    cost = seconds_a_step(d, data, t)
    steps = max(1, round(seconds / cost))
    averaged, optimizer = copy.deepcopy(d), torch.optim.AdamW(d.f.parameters(), lr=t.lr, weight_decay=0.01)
    curve, losses, due = [], [], {round(steps * k / 8) for k in range(1, 9)}
    for step, batch in batches(data, t.batch_size, t.seed):
        for group in optimizer.param_groups:
            group["lr"] = t.lr * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2
        losses.append(optimizer_step(d, optimizer, batch, generator_of(t, step)))
        with torch.no_grad():
            for old, new in zip(averaged.f.parameters(), d.f.parameters()):
                old.copy_(ema_average(old, new, step + 1, 0.99))
        if step + 1 in due:
            curve.append(
                {"seconds": (step + 1) * cost, "steps": step + 1, "loss": sum(losses[-50:]) / len(losses[-50:])}
            )
            curve[-1] |= {"r2": watch(averaged)}
        if step + 1 == steps:
            return averaged, curve
    raise AssertionError("the batches end")


def generator_of(t: Training, step: int) -> torch.Generator:
    """What draws the masks and the noise of a step."""
    return torch.Generator().manual_seed(derive_seed(t.seed, "step", step))


def known(d: MMCCD, batch: dict[str, torch.Tensor], steps: int = 1) -> dict[str, dict]:
    """`imagination_of` by pair: of all that the network knows, or of its one."""
    pairs = d.pairs if d.config.modalities else [(d.config.input, d.config.target)]
    ways = {"-".join(p): d.for_pair(*p) if d.config.modalities else d for p in pairs}
    return {k: imagination_of(way, batch, steps=steps) for k, way in ways.items()}


def run_arm(o: Options, name: str, stores: tuple[Path, Path], work: Path) -> dict[str, Any]:
    """Train and measure an arm, unless that was done before; its network stays in the folder of the job."""
    torch.set_num_threads(1)
    file, t = work / f"{name}.json", training(o, name)
    about = {"training": asdict(t), "seconds": o.seconds}
    if file.exists() and (old := json.loads(file.read_text()))["about"] == json.loads(json.dumps(about)):
        return old
    store, val = (SliceStore(s) for s in stores)
    data = Slices(store.dataset(store.ids[: t.heads or None], o.modalities), o.size)
    held_out = Slices(val.dataset(None, o.modalities), o.size)
    few, some, seen = held_out.some(o.measured), held_out.some(o.final), data.some(o.final)
    d, seconds = new_detector(t), o.seconds / (2 if t.start else 1)
    if t.start:
        first = training(o, t.start)
        begun, _ = learn(new_detector(first), data, first, seconds, lambda d: {})
        d = load_start(d, begun)
    averaged, curve = learn(d, data, t, seconds, lambda d: {k: v["r2"] for k, v in known(d, few).items()})
    averaged.save_pretrained(work / name)
    found: dict[str, Any] = {
        "about": about,
        "parameters": count_parameters(d.f),
        "steps": curve[-1]["steps"],
        "slices": curve[-1]["steps"] * t.batch_size,
        "curve": curve,
        "r2": {str(n): known(averaged, some, n) for n in t.steps},
        "heads seen": {k: v["r2"] for k, v in known(averaged, seen).items()},
    }
    found = json.loads(json.dumps(round_floats(found)))
    write_atomic(file, to_json(found).encode())
    return found


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Train and measure all arms."""
    o = checked(options, Options, "the recipe", "correct that option")
    work = job.work / "imagination"
    work.mkdir(parents=True, exist_ok=True)
    stores = tuple(open_store(work / f"{name}.zarr", getattr(o, name), o, job.jobs) for name in ("train", "validation"))
    arms = {}
    for name, found in zip(o.arms, in_parallel(run_arm, [(o, name, stores, work) for name in o.arms], job.jobs)):
        arms[name] = found
        job.say(f"{name:32} {found['steps']:5} steps, R2 " + str({k: v["r2"] for k, v in found["r2"]["1"].items()}))
    about = {k: getattr(o, k) for k in ("train", "validation", "places", "size", "seconds")}
    return about | {"arms": arms}
