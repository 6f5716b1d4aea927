"""One row of the tables: its threshold from healthy slices, false alarms on healthy heads, scores of each subject."""

import io
import json
import time
import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from mmccd import __version__
from mmccd.baselines import Bottleneck
from mmccd.benchmark.dataset import Batch, ScoredSubject, load_evaluation_set
from mmccd.benchmark.networks import Entry, load_entry
from mmccd.benchmark.plan import Plan
from mmccd.cases.records import checksum
from mmccd.detection.maps import map_slices
from mmccd.detector import Detector, fingerprint, healthy_threshold
from mmccd.files import write_atomic, writing
from mmccd.registry import METHODS
from mmccd.runtime import single_thread
from mmccd.scoring import slice_protocol
from mmccd.slices import to_volume
from mmccd.summary import score_shapes, score_subjects, summarise
from mmccd.unet import UNet

RECALLS = np.linspace(0, 1, 51)
"""Where the curves of precision over recall are sampled."""
SHOWN = {"dice": "Dice (calibrated)", "fpr": "FPR", "dice_oracle": "Dice (oracle)", "ap": "AP", "auroc": "AUROC"}
"""The main scores, and their names in tables."""
AT_ORACLE = ("jaccard", "precision", "recall", "assd")
"""Scores that were published for the threshold that is fitted to the labels of the test."""


@torch.no_grad()
def anomaly_maps(detector: Detector, batch: Batch, seed: int) -> torch.Tensor:
    """Anomaly maps as `mmccd detect` makes them, slice by slice, so that none depends on its neighbours.

    Args:
        detector: Any detector.
        batch: Slices at the size that is scored.
        seed: Of the noise; each slice gets the same.

    Returns:
        (b 1 h w), on the CPU.
    """
    input = detector.config.input
    if input not in batch:  # of a blind detector, which takes any
        input = next(iter(batch))
    x, brain = batch[input].to(detector.device), batch["brain"].to(detector.device)
    found = [
        map_slices(detector, s, b, torch.Generator(detector.device).manual_seed(seed)).cpu()
        for s, b in zip(x.split(1), brain.split(1))
    ]
    return torch.cat(found)


@contextmanager
def count_evaluations(detector: Detector) -> Generator[list[int]]:
    """Count the slices that the detector's networks take inside this context: the sum of the list."""
    counts: list[int] = []
    nets = [m for m in detector.modules() if isinstance(m, (UNet, Bottleneck))]
    nets = [m.first if isinstance(m, Bottleneck) else m for m in nets]  # whose two halves are called one by one
    hooks = [m.register_forward_pre_hook(lambda _, args: counts.append(len(args[0]))) for m in nets]
    try:
        yield counts
    finally:
        for h in hooks:
            h.remove()


def precision_at(score: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The best precision that can be had with at least each of `RECALLS`.

    Args:
        score: Of the brain's pixels, flat.
        truth: Which of them are lesion: bool, flat, True somewhere.

    Returns:
        (51,), in [0, 1].
    """
    from sklearn.metrics import precision_recall_curve

    p, r, _ = precision_recall_curve(truth, score)
    best = np.maximum.accumulate(p[:-1])  # recall falls from left to right
    return best[np.searchsorted(-r[:-1], -RECALLS, side="right") - 1]


def _picture(slices: torch.Tensor) -> np.ndarray:
    """The only slice (1 1 h w) as an array (h w)."""
    return slices[0, 0].numpy()


def score_kind(subjects: Sequence[ScoredSubject], anomaly: Sequence[torch.Tensor], threshold: float) -> dict[str, Any]:
    """All scores of one method on the subjects of one kind, slice protocol, at the calibrated and the oracle threshold.

    Args:
        subjects: Of one kind.
        anomaly: Their maps, each (1 1 h w).
        threshold: The calibrated one.

    Returns:
        `oracle_threshold`; `columns`, `rows` (one for each subject) and `summary` (means and intervals) of the scores;
        `curve`, the mean precision at `RECALLS`. Distances are in mm.
    """
    flat = [
        slice_protocol(to_volume(a), to_volume(s.batch["lesion"]), to_volume(s.batch["brain"]), range(1))
        for s, a in zip(subjects, anomaly)
    ]
    pixels = [(s.id, *f) for s, f in zip(subjects, flat)]

    def score_at(h: float) -> dict[str, Any]:
        shapes = [
            score_shapes(_picture(a > h), _picture(s.batch["lesion"]), _picture(s.batch["brain"]), s.spacing)
            for s, a in zip(subjects, anomaly)
        ]
        return score_subjects(pixels, h, shapes=shapes)

    found = score_at(threshold)
    best = score_at(found["oracle_threshold"])
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


def measure(plan: Plan, entry: Entry) -> dict[str, Any]:
    """Measure one row of the tables.

    Returns:
        The row, ready for JSON (threshold, share of each healthy brain above it, evaluations of a network a slice,
        scores by kind of subject, ...); and `maps`, the maps of the subjects that are pictured.
    """
    data, detector, fpr = load_evaluation_set(plan), load_entry(plan, entry), plan.recipe.fpr
    start = time.perf_counter()
    healthy = anomaly_maps(detector, data.calibration, plan.seed)[data.calibration["brain"]]
    h = detector.threshold if METHODS[entry.method].blind else healthy_threshold(healthy, fpr)
    shares = [
        (anomaly_maps(detector, s.batch, plan.seed)[s.batch["brain"]] > h).double().mean().item() for s in data.healthy
    ]
    with count_evaluations(detector) as counts:
        found = [anomaly_maps(detector, s.batch, plan.seed) for s in data.subjects]
    kinds = {}
    for kind in dict.fromkeys(s.kind for s in data.subjects):
        same = [i for i, s in enumerate(data.subjects) if s.kind == kind]
        kinds[kind] = score_kind([data.subjects[i] for i in same], [found[i] for i in same], h)
    shown = pictured(data.subjects)
    return {
        "method": entry.method,
        "input": entry.input,
        "target": entry.target,
        "shipped": entry.shipped,
        "fingerprint": fingerprint(detector),
        "check": data.check,
        "mmccd": __version__,
        "threshold": float(h),
        "fpr_reached": (healthy > h).double().mean().item(),
        "evaluations": sum(counts) / len(found),
        "healthy": shares,
        "kinds": kinds,
        "seconds": time.perf_counter() - start,
        "maps": {s.id: a for s, a in zip(data.subjects, found) if s.id in shown},
    }


def pictured(subjects: Iterable[ScoredSubject], n: int = 5) -> list[str]:
    """Ids of the `n` subjects in the figure: of the first kind, evenly spaced by rank of lesion size."""
    subjects = list(subjects)
    same = sorted((s for s in subjects if s.kind == subjects[0].kind), key=lambda s: (s.lesion_cm2, s.id))
    n = min(n, len(same))
    return [same[(2 * k + 1) * len(same) // (2 * n)].id for k in range(n)]


def score_file(plan: Plan, key: str) -> Path:
    """Where a row is kept as JSON; its maps lie beside it as `.npz`."""
    return Path(plan.out) / "scores" / f"{key.replace(' ', '-')}.json"


def kept_scores(plan: Plan, entry: Entry) -> dict[str, Any] | None:
    """What was measured before, if it is whole and of the same weights, slices and version; else None."""
    file = score_file(plan, entry.key)
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, BadZipFile, zlib.error):
        old = json.loads(file.read_text(encoding="utf-8"))
        digest = old.pop("sha256")
        with np.load(file.with_suffix(".npz")) as maps:
            whole = {k for k in maps.files if maps[k] is not None}  # read, so that a damaged one shows
        whole = whole == set(pictured(load_evaluation_set(plan).subjects)) and digest == checksum(old)
        now = (fingerprint(load_entry(plan, entry)), load_evaluation_set(plan).check, __version__)
        if whole and (old["fingerprint"], old["check"], old["mmccd"]) == now:
            return old
    return None


def score_entry(plan: Plan, entry: Entry) -> dict[str, Any]:
    """Measure a row and keep it, or take what is kept; returns what `measure` does, without the maps."""
    if old := kept_scores(plan, entry):
        return old
    with single_thread():
        found = measure(plan, entry)
    maps, file = found.pop("maps"), score_file(plan, entry.key)
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(buffer := io.BytesIO(), **{k: v.half().numpy() for k, v in maps.items()})
        write_atomic(file.with_suffix(".npz"), buffer.getvalue())
        found = json.loads(json.dumps(found, allow_nan=False))
        write_atomic(file, json.dumps(found | {"sha256": checksum(found)}).encode())
    return found
