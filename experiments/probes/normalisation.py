"""Which normalisation keeps healthy tissue in its place, between a patient and its twin and between heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from evidence import Job, in_parallel, span

from mmccd.anatomy import MODALITIES
from mmccd.intensity import METHODS, bend, landmarks, learn_landmarks
from mmccd.phantom import make_phantom
from mmccd.scanner import HEALTHY
from mmccd.schemas import checked
from mmccd.scoring import dice

TISSUES = [1 + list(HEALTHY).index(t) for t in ("wm", "cortex")]
MORE = ("nyul", "published")  # besides those of `mmccd.intensity`


@dataclass(frozen=True)
class Options:
    """What the recipe says.

    Attributes:
        patients: Phantoms by kind.
        seed: Of the phantoms.
        voxels: How many brain voxels of each are taken.
        places: First and last axial place; empty: whole heads.
    """

    patients: dict[str, int]
    seed: int
    voxels: int
    places: tuple = ()


def sample(kind: str, seed: int, index: int, n: int, slices: range | None) -> dict[str, Any]:
    """Intensities of `n` random brain voxels: patient and healthy twin by modality, tissue, lesion."""
    p = make_phantom(kind, seed, index, slices)
    inside = np.flatnonzero(p.brain)
    chosen = np.sort(np.random.default_rng(index).choice(inside, n, replace=False))
    return {
        "kind": kind,
        "ill": {m: v.ravel()[chosen] for m, v in p.volumes.items()},
        "twin": {m: v.ravel()[chosen] for m, v in p.twin.items()},
        "tissue": p.tissue.ravel()[chosen],
        "lesion": p.labels.ravel()[chosen] > 0,
    }


def mapping(method: str, values: np.ndarray, modality: str, others: list[np.ndarray]) -> Callable:
    """The function that a method fits to the values of one brain; `others` are what Nyul's landmarks come from."""
    if method == "nyul":
        own, standard = landmarks(values), learn_landmarks(others)
        return lambda v: bend(np.asarray(v, float), own, standard)
    if method == "published":
        q = np.percentile(values, 90)
        return lambda v: 6 * np.asarray(v, float) / q - 3
    centre, half = METHODS[method](values, modality)
    return lambda v: (np.asarray(v, float) - centre) / half


def compare(patients: list[dict], method: str, modality: str) -> tuple[dict[str, float], list[tuple]]:
    """How far healthy tissue moves under one method in one modality, in healthy interquartile ranges.

    `shift`: from a twin to its patient, mean of the absolute values. `spread`: of the twins about their common mean,
    root mean square. `displacement`: of the patients about that mean, which is what a detector of healthy people meets.

    Returns:
        These numbers, and the normalised values of each patient and twin.
    """
    rows, mapped = [], []
    for p in patients:
        others = [q["twin"][modality] for q in patients if q is not p]
        ill, twin = (mapping(method, p[k][modality], modality, others) for k in ("ill", "twin"))
        values = p["twin"][modality]
        centres = [np.median(values[(p["tissue"] == t) & ~p["lesion"]]) for t in TISSUES]
        rows.append((ill(centres), twin(centres), np.diff(twin(np.percentile(values, [25, 75])))))
        mapped.append((ill(p["ill"][modality]), twin(values)))
    ill, twin, unit = (np.array(r) for r in zip(*rows))
    off = twin.mean(0)

    def rms(a: np.ndarray) -> float:
        return float(np.sqrt((a**2).mean()) / unit.mean())

    shift = abs(ill - twin) / unit.mean()
    means = {"shift": float(shift.mean()), "shift_max": float(shift.max())}
    return means | {"spread": rms(twin - off), "displacement": rms(ill - off)}, mapped


def detection(patients: list[dict], mapped: list[tuple]) -> dict[str, float]:
    """Mean Dice of one FLAIR threshold at 1 % false positives over all twins, and the spread of their own rates."""
    h = np.quantile(np.concatenate([twin for _, twin in mapped]), 0.99)
    scores = [dice(ill > h, p["lesion"]) for p, (ill, _) in zip(patients, mapped) if p["lesion"].any()]
    rates = [float((twin > h).mean()) for _, twin in mapped]
    return {"dice_flair": float(np.mean(scores)), "fpr_sd": float(np.std(rates, ddof=1))}


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Compare all methods on the same patients."""
    o = checked(options, Options, "the recipe", "correct that option")
    slices = span(o.places) if o.places else None
    tasks = [(kind, o.seed, i, o.voxels, slices) for kind, n in o.patients.items() for i in range(n)]
    patients = list(in_parallel(sample, tasks, job.jobs))
    gliomas, found = [p for p in patients if p["kind"] == "glioma"], {}
    for method in (*METHODS, *MORE):
        compared = {m: compare(patients, method, m) for m in MODALITIES}
        rows = {m: row for m, (row, _) in compared.items()}
        means = {k: float(np.mean([r[k] for r in rows.values()])) for k in ("shift", "spread", "displacement")}
        glioma = {"shift_glioma": float(np.mean([compare(gliomas, method, m)[0]["shift"] for m in MODALITIES]))}
        found[method] = means | glioma | detection(patients, compared["flair"][1]) | {"modalities": rows}
        job.say(f"{method:13} shift {means['shift']:.3f}, displacement {means['displacement']:.3f}")
    return {"seed": o.seed, "patients": o.patients, "methods": found}
