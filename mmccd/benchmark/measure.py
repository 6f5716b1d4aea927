""""""

import io
import json
import time
from collections import namedtuple
from contextlib import contextmanager, suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from mmccd import __version__
from mmccd.baselines import Bottleneck
from mmccd.benchmark.dataset import load_evaluation_set, load_training_data, places
from mmccd.cases.store import SliceStore
from mmccd.detection.maps import map_slices
from mmccd.detector import EverythingPositive, Threshold, fingerprint, healthy_threshold, load_detector
from mmccd.files import write_atomic, writing
from mmccd.masked_diffusion import MMCCD, load_frozen_decoder, with_config
from mmccd.registry import METHODS, new_detector
from mmccd.runtime import single_thread
from mmccd.scoring import score_shapes, score_subjects, slice_protocol, summarise
from mmccd.slices import to_volume
from mmccd.training.run import train
from mmccd.unet import UNet, preset
from mmccd.weights.hub import WEIGHTS, packaged


def run_folder(
    plan,  # a `Plan`
    method: str,  # trained in it
) -> Path:
    "Where a training lies."
    return Path(plan.out) / "runs" / method


def untrained(
    plan,  # a `Plan`
    method: str,  # in `ROWS`
    made: dict,  # recipe of the store to learn from; `size` and `normalisation` count
):  # a `Detector` that has learned nothing
    "One network for all that is asked, told which; for a single pair, networks for that pair alone."
    name, changes = plan.recipe.unet if METHODS[method].paired else (plan.recipe.unet[0], {})
    unet = preset(name, **changes) if changes else name
    (input, target), known = plan.pairs[0], plan.modalities if len(plan.pairs) > 1 else ()
    if not METHODS[method].paired:
        known = plan.inputs if len(plan.inputs) > 1 else ()
    return new_detector(
        method,
        plan.seed,
        input=input,
        target=target,
        modalities=known,
        unet=unet,
        size=made["size"],
        normalisation=made["normalisation"],
    )


def train_method(
    plan,  # a `Plan`
    method: str,  # in `ROWS`
    progress=False,  # a bar of its own
) -> dict:  # record of the run
    "Train one method, or go on with it; a training that is done is left alone."
    data, val = load_training_data(plan)
    detector = untrained(plan, method, data.recipe)
    if decoder := METHODS[method].decoder_from:
        load_frozen_decoder(detector, load_detector(run_folder(plan, decoder)))
    return train(
        detector, data, val, run_folder(plan, method), plan.training, resume=True, device=plan.device, progress=progress
    )


Entry = namedtuple("Entry", "key method input target shipped")  # a line of the tables


def entries(
    plan,  # a `Plan`
) -> list:  # of `Entry`
    "Every line, method by method."
    out = []
    for m in plan.methods:
        ways = (
            plan.pairs
            if METHODS[m].paired
            else [(x, None) for x in plan.inputs]
            if m != "everything"
            else [(None, None)]
        )
        for (x, y), shipped in ((w, s) for s in (False, True) for w in ways):
            name = "-".join(v for v in (m, x, y) if v)
            there = METHODS[m].trainable and (
                plan.shipped != "no" and name in packaged() if shipped else plan.shipped != "only"
            )
            if there or (not METHODS[m].trainable and not shipped):
                out.append(Entry(f"{name}{' shipped' * shipped}", m, x, y, shipped))
    return out


def detector_of(
    plan,  # a `Plan`
    entry,  # an `Entry`
):  # a `Detector` on the plan's device
    "Who is measured there."
    normalisation = SliceStore(places(plan)["test"]).recipe["normalisation"]
    if entry.method == "everything":
        d = EverythingPositive()
    elif entry.method == "threshold":
        d = Threshold(input=entry.input, normalisation=normalisation)
    elif entry.shipped:
        d = load_detector(WEIGHTS / entry.key.removesuffix(" shipped"))
    else:
        d = load_detector(run_folder(plan, entry.method))
        d = d.for_pair(entry.input, entry.target) if entry.target else d.for_modality(entry.input)
    if (made := getattr(d.config, "normalisation", normalisation)) != normalisation:
        raise ValueError(
            f"{entry.key} was made for slices with normalisation {made}, and these have {normalisation}: prepare them the same way, or leave --shipped out"
        )
    return (with_config(d, sampler=plan.sampler) if isinstance(d, MMCCD) else d).to(plan.device).eval()


@torch.no_grad()
def maps(
    detector,  # any
    batch: dict,  # slices by modality, and "brain", at the size that is scored
    seed: int,  # of the noise, the same for all
) -> torch.Tensor:  # (b 1 h w), on the CPU
    "Anomaly maps as `mmccd detect` makes them; slices one by one, so that none depends on its neighbours."
    input = (
        detector.config.input if detector.config.input in batch else next(iter(batch))
    )  # everything positive looks at nothing
    x, brain = (batch[k].to(detector.device) for k in (input, "brain"))
    return torch.cat(
        [
            map_slices(detector, s, b, torch.Generator(detector.device).manual_seed(seed)).cpu()
            for s, b in zip(x.split(1), brain.split(1))
        ]
    )


@contextmanager
def count_evaluations(
    detector,  # any
):  # a list: its sum is the number of slices that networks were given
    "How often is a network asked?"
    asked = []
    nets = [m for m in detector.modules() if isinstance(m, (UNet, Bottleneck))]
    nets = [m.first if isinstance(m, Bottleneck) else m for m in nets]  # which is asked in two halves
    hooks = [m.register_forward_pre_hook(lambda _, args: asked.append(len(args[0]))) for m in nets]
    try:
        yield asked
    finally:
        for h in hooks:
            h.remove()


RECALLS = np.linspace(0, 1, 51)


def precision_at(
    score,  # of the brain's pixels, flat
    truth,  # bool, flat, True somewhere
) -> np.ndarray:  # (51,), in [0, 1]
    "Precision at each of `RECALLS`: the best one that this recall, or a higher one, can be had with."
    from sklearn.metrics import precision_recall_curve

    p, r, _ = precision_recall_curve(truth, score)
    best = np.maximum.accumulate(p[:-1])  # recall falls from left to right
    return best[np.searchsorted(-r[:-1], -RECALLS, side="right") - 1]


SHOWN = dict(dice="Dice (calibrated)", fpr="FPR", dice_oracle="Dice (oracle)", ap="AP", auroc="AUROC")


AT_ORACLE = ("jaccard", "precision", "recall", "assd")  # as published: with the threshold fitted to the labels


def score_kind(
    subjects,  # of `Subject`, of one kind
    anomaly,  # their maps, list of (1 1 h w)
    h: float,  # the calibrated threshold
) -> dict:  # oracle_threshold; summary and rows of `columns`; curve: mean precision at `RECALLS`
    "All scores of one method on one kind of subject, slice protocol, at both thresholds."
    flat = [
        slice_protocol(*map(to_volume, (a, s.batch["lesion"], s.batch["brain"])), range(1))
        for s, a in zip(subjects, anomaly)
    ]
    pixels = [(s.id, *f) for s, f in zip(subjects, flat)]

    def shapes(h):
        return [
            score_shapes(*((v[0, 0]).numpy() for v in (a > h, s.batch["lesion"], s.batch["brain"])), s.spacing)
            for s, a in zip(subjects, anomaly)
        ]

    found = score_subjects(pixels, h, shapes=shapes(h))
    best = score_subjects(pixels, found["oracle_threshold"], shapes=shapes(found["oracle_threshold"]))
    rows = [r | {f"{k}_oracle": o[k] for k in AT_ORACLE} for r, o in zip(found["subjects"], best["subjects"])]
    columns = [*SHOWN, *AT_ORACLE, *(f"{k}_oracle" for k in AT_ORACLE)]
    curve = np.mean([precision_at(*f) for f in flat], 0)
    return {
        "oracle_threshold": found["oracle_threshold"],
        "summary": {c: summarise(rows, c) for c in columns},
        "columns": columns,
        "rows": [[r[c] for c in columns] for r in rows],
        "curve": curve.tolist(),
    }


def measure(
    plan,  # a `Plan`
    entry,  # an `Entry`
) -> dict:  # ready for JSON, and "maps": those of the subjects that are pictured
    "One line of the tables: threshold, false alarms on healthy heads, scores by kind."
    j, d, r = load_evaluation_set(plan), detector_of(plan, entry), plan.recipe
    start = time.perf_counter()
    healthy = maps(d, j.calibration, plan.seed)[j.calibration["brain"]]
    h = d.threshold if entry.method == "everything" else healthy_threshold(healthy, r.fpr)
    shares = [(maps(d, s.batch, plan.seed)[s.batch["brain"]] > h).double().mean().item() for s in j.healthy]
    with count_evaluations(d) as asked:
        found = [maps(d, s.batch, plan.seed) for s in j.subjects]
    of = {
        k: [(s, a) for s, a in zip(j.subjects, found) if s.kind == k] for k in dict.fromkeys(s.kind for s in j.subjects)
    }
    return {
        "method": entry.method,
        "input": entry.input,
        "target": entry.target,
        "shipped": entry.shipped,
        "fingerprint": fingerprint(d),
        "check": j.check,
        "mmccd": __version__,
        "threshold": float(h),
        "fpr_reached": (healthy > h).double().mean().item(),
        "evaluations": sum(asked) / len(found),
        "healthy": shares,
        "kinds": {k: score_kind(*zip(*v), h) for k, v in of.items()},
        "seconds": time.perf_counter() - start,
        "maps": {s.id: a for s, a in zip(j.subjects, found) if s.id in pictured(j.subjects)},
    }


def pictured(
    subjects,  # of `Subject`
    n=5,  # how many
) -> list[str]:  # ids
    "Whom the figure shows: of the first kind those evenly spaced by rank of lesion size, whatever the maps look like."
    some = sorted((s for s in subjects if s.kind == subjects[0].kind), key=lambda s: (s.lesion_cm2, s.id))
    n = min(n, len(some))
    return [some[(2 * k + 1) * len(some) // (2 * n)].id for k in range(n)]


def score_entry(
    plan,  # a `Plan`
    entry,  # an `Entry`
) -> dict:  # what `measure` found, without maps
    "Measure a line, or take what lies in the folder if it is of the same weights and the same slices."
    folder = Path(plan.out) / "scores"
    file = folder / f"{entry.key.replace(' ', '-')}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, BadZipFile):
        old = json.loads(file.read_text())
        with np.load(file.with_suffix(".npz")) as kept:
            whole = set(kept.files) == set(pictured(load_evaluation_set(plan).subjects))
        if whole and (old["fingerprint"], old["check"], old["mmccd"]) == (
            fingerprint(detector_of(plan, entry)),
            load_evaluation_set(plan).check,
            __version__,
        ):
            return old
    with single_thread():
        found = measure(plan, entry)
    pictures = found.pop("maps")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(buffer := io.BytesIO(), **{k: v.half().numpy() for k, v in pictures.items()})
        write_atomic(file.with_suffix(".npz"), buffer.getvalue())
        write_atomic(file, json.dumps(found, allow_nan=False).encode())
    return json.loads(json.dumps(found))
