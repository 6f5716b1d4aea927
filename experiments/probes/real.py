"""Weights that saw made-up heads only, on real scans: what they find, what they call abnormal in healthy people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import Job, in_parallel
from probes.scans import ScanSet, all_cases, describe_sets

from mmccd.cases.case import Case
from mmccd.cases.grid import protocol_slices
from mmccd.detection.detect import detect_case
from mmccd.detector import Detector, fingerprint, load_detector
from mmccd.schemas import checked
from mmccd.scoring import average_precision, slice_protocol
from mmccd.summary import best_threshold, dice, summarise

ALL = "all"
"""The row of detectors that take whatever there is."""
SHARES = np.linspace(0, 1, 2001)
"""Of the brain, at which the values of a map are kept."""
FPR = 0.01


@dataclass(frozen=True)
class Options:
    """What the recipe says.

    Attributes:
        sets: Of cases, by name; those without cases here are left out.
        tuned: Names of the sets that had a say in what is packaged.
        reference: The set of healthy phantoms that the rules for thresholds are set on.
        rows: By input ("flair", or "all"), the weights by the name of the method.
    """

    sets: dict[str, ScanSet]
    tuned: list[str]
    reference: str
    rows: dict[str, dict[str, str]]


# one case


def measure_row(case: Case, detector: Detector, input: str) -> dict[str, np.ndarray]:
    """What is kept of a detector's map of a case: values at shares of the brain, and of its healthy part; one slice."""
    found = detect_case(case, detector, None if input == ALL else input)
    lesion = case.lesion if case.lesion is not None else np.zeros_like(case.brain)
    quantiles = {"brain": case.brain, "healthy": case.brain & ~lesion}
    kept = {k: np.quantile(found.anomaly[where], SHARES).astype(np.float32) for k, where in quantiles.items()}
    kept["threshold"] = np.float32(found.threshold)
    if (lesion & case.brain).any():
        places = protocol_slices(case.brain.shape, case.affine)
        score, truth = slice_protocol(found.anomaly, lesion, case.brain, places)
        if truth.any():
            kept |= {"score": score.astype(np.float32), "truth": truth}
    return kept


Row = dict[str, np.ndarray]


def measure(s: ScanSet, id: str, rows: dict[str, dict[str, str]], folder: Path) -> dict[str, Row]:
    """All detectors in one case, by row; what was measured before is read from the folder of the job."""
    torch.set_num_threads(1)
    found: dict[str, Row] = {}
    case: Case | None = None
    for input, detectors in rows.items():
        for method, name in detectors.items():
            file, detector = folder / f"{id} {input} {name}.npz", load_detector(name)
            about = fingerprint(detector)
            kept = dict(np.load(file)) if file.exists() else {}
            if str(kept.pop("about", "")) != about:
                case = case or s.load(id)
                if input != ALL and input not in case.volumes:
                    continue
                kept = measure_row(case, detector, input)
                file.parent.mkdir(parents=True, exist_ok=True)
                with open(file.with_suffix(".part"), "wb") as part:
                    np.savez_compressed(part, about=about, **kept)
                file.with_suffix(".part").replace(file)
            found[f"{input} {method}"] = kept
    return found


# rules for the threshold of a case


def value_at(quantiles: np.ndarray, share: float) -> float:
    """The value below which a share of the brain lies."""
    return float(np.interp(share, SHARES, quantiles))


def own_median(row: Row, k: float) -> float:
    """So many times the median of the case's own map."""
    return k * value_at(row["brain"], 0.5)


def quiet_half(row: Row, k: float) -> float:
    """The lower half of the case's own map, which no lesion reaches, gone on with: its median, and k times as far on a
    logarithmic scale as from the 10th percentile to the median."""
    low, middle = (np.log(max(value_at(row["brain"], q), 1e-9)) for q in (0.1, 0.5))
    return float(np.exp(middle + k * (middle - low)))


def fitted_tail(row: Row, k: float) -> float:
    """Where a generalised Pareto tail through the case's own 80th, 90th and 95th percentiles (Pickands 1975) leaves
    the share k."""
    a, b, c = (value_at(row["brain"], q) for q in (0.8, 0.9, 0.95))
    xi = float(np.clip(np.log2(max(c - b, 1e-9) / max(b - a, 1e-9)), -1, 2))
    grown = np.log(0.05 / k) / np.log(2) if abs(xi) < 1e-3 else ((0.05 / k) ** xi - 1) / (1 - 2**-xi)
    return c + float(grown) * (c - b)


def tangent(row: Row, k: float) -> float:
    """Where the curve of the share above against the threshold, both from 0 to 1, has a tangent of slope -k (IterMask3D
    takes the threshold of a case from the slope of such a curve)."""
    top = value_at(row["brain"], 0.999)
    return float(row["brain"][np.argmin((1 - SHARES) + k * row["brain"] / max(top, 1e-9))])


RULES: dict[str, tuple[Callable[[Row, float], float], tuple[float, float]]] = {
    "own median": (own_median, (1e-2, 1e3)),
    "quiet half": (quiet_half, (1e-2, 1e2)),
    "fitted tail": (fitted_tail, (1e-5, 0.05)),
    "tangent": (tangent, (1e-3, 1e2)),
}
"""By name a rule, and between which numbers its k is looked for."""


def share_above(row: Row, threshold: float) -> float:
    """Share of the healthy part of the brain that lies above."""
    return float(1 - np.interp(threshold, row["healthy"], SHARES))


def fit_rule(rule: str, healthy: list[Row]) -> float:
    """The k with which 1 % of healthy phantoms lies above, by bisection."""
    find, (low, high) = RULES[rule]
    rises = find(healthy[0], high) > find(healthy[0], low)
    for _ in range(60):
        k = float(np.sqrt(low * high))
        above = float(np.mean([share_above(r, find(r, k)) for r in healthy]))
        if (above > FPR) == rises:
            low = k
        else:
            high = k
    return k


def thresholds(row: Row, others: list[Row], ks: dict[str, float]) -> dict[str, float]:
    """The threshold of a case by each rule.

    Args:
        row: Its own map.
        others: Maps of other people of the set that have no lesion.
        ks: By rule what it was set to.
    """
    found = {"as shipped": float(row["threshold"])} | {rule: RULES[rule][0](row, k) for rule, k in ks.items()}
    if others:
        found["healthy people of that scanner"] = float(np.mean([value_at(r["healthy"], 1 - FPR) for r in others]))
    return found


# tables


def summarise_rule(rows: list[Row], values: list[float]) -> dict[str, Any]:
    """What a rule does to a set: share of healthy tissue above, and Dice where there are lesions."""
    above = [{"above": share_above(r, t)} for r, t in zip(rows, values)]
    found = {"above": summarise(above, "above"), "most_above": max(r["above"] for r in above)}
    ill = [(r, t) for r, t in zip(rows, values) if "truth" in r]
    if ill:
        found["dice"] = summarise([{"dice": dice(r["score"] > t, r["truth"])} for r, t in ill], "dice")
    return found


def summarise_row(rows: list[Row], ks: dict[str, float], healthy: bool) -> dict[str, Any]:
    """Means over the cases of a set with intervals; no number of a single one but the most that lies above."""
    others = [[o for o in rows if o is not r] if healthy else [] for r in rows]
    each = [thresholds(r, o, ks) for r, o in zip(rows, others)]
    found: dict[str, Any] = {"rules": {k: summarise_rule(rows, [t[k] for t in each]) for k in each[0]}}
    ill = [r for r in rows if "truth" in r]
    if ill:
        found["ap"] = summarise([{"ap": average_precision(r["score"], r["truth"])} for r in ill], "ap")
        one = best_threshold([r["score"] for r in ill], [r["truth"] for r in ill])
        found["dice_oracle"] = summarise([{"dice": dice(r["score"] > one, r["truth"])} for r in ill], "dice")
        best = [best_threshold([r["score"]], [r["truth"]]) for r in ill]
        of_each = [{"dice": dice(r["score"] > t, r["truth"])} for r, t in zip(ill, best)]
        found["dice_oracle_of_each"] = summarise(of_each, "dice")
    return found


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure every detector on every set."""
    o = checked(options, Options, "the recipe", "correct that option")
    todo = list(all_cases(o.sets, job))
    tasks = [(o.sets[s], id, o.rows, job.work / "real-scans" / s) for s, id in todo]
    sets: dict[str, dict[str, list[Row]]] = {}
    for (s, id), found in zip(todo, in_parallel(measure, tasks, job.jobs)):
        job.say(f"{s}: {id}")
        for key, row in found.items():
            sets.setdefault(s, {}).setdefault(key, []).append(row)
    ks = {key: {r: fit_rule(r, rows) for r in RULES} for key, rows in sets[o.reference].items()}
    table = {
        s: {key: summarise_row(rows, ks[key], o.sets[s].labels == "none" and len(rows) > 2) for key, rows in of.items()}
        for s, of in sets.items()
    }
    weights = sorted({n for found in o.rows.values() for n in found.values()})
    about = {s: d | {"tuned_on": s in o.tuned} for s, d in describe_sets(o.sets).items()}
    known = {n: fingerprint(load_detector(n)) for n in weights}
    return {"sets": about, "weights": known, "rules": ks, "table": table}
