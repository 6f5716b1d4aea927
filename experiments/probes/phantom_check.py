"""How hard the default phantom is: the plain threshold on it, beside the same on real BraTS patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from evidence import Job, in_parallel, span

from mmccd.detector import SIGNS
from mmccd.intensity import normalise
from mmccd.phantom import make_phantom
from mmccd.schemas import checked
from mmccd.scoring import auroc, average_precision, slice_protocol


@dataclass(frozen=True)
class Options:
    """What the recipe says: subjects, seed, first and last axial place, and what real patients gave by modality."""

    n: int
    seed: int
    real: dict[str, dict[str, float]]
    tolerance: dict[str, dict[str, float]]  # how far off is allowed
    prevalence: dict[str, float]  # real, tolerance
    places: tuple[int, int] = (70, 89)


def measure(seed: int, index: int, modalities: list[str], slices: range) -> dict[str, Any]:
    """AP and AUROC of the plain threshold in each modality, and prevalence, of one glioma."""
    p = make_phantom("glioma", seed, index, slices, twin=False)
    out: dict[str, Any] = {"id": p.id}
    for m in modalities:
        x = SIGNS[m] * normalise(p.volumes[m], p.brain, "median_iqr")
        score, truth = slice_protocol(x, p.labels > 0, p.brain, slices=range(len(slices)))
        out[m] = {"ap": average_precision(score, truth), "auroc": auroc(score, truth)}
        out["prevalence"] = float(truth.mean())  # the same slice in every modality
    return out


def mean_sd(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation between subjects."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure all subjects; says which mean lies outside its tolerance."""
    o = checked(options, Options, "the recipe", "correct that option")
    rows = list(in_parallel(measure, [(o.seed, i, list(o.real), span(o.places)) for i in range(o.n)], job.jobs))
    modalities = {
        m: {k: mean_sd([r[m][k] for r in rows]) for k in ("ap", "auroc")}
        | {"real": o.real[m], "tolerance": o.tolerance[m]}
        for m in o.real
    }
    prevalence = mean_sd([r["prevalence"] for r in rows]) | o.prevalence
    lines = [(f"{m} {k}", r[k], r["real"][k], r["tolerance"][k]) for m, r in modalities.items() for k in r["real"]]
    for name, got, real, allowed in [*lines, ("prevalence", prevalence, prevalence["real"], prevalence["tolerance"])]:
        good = "ok" if abs(got["mean"] - real) <= allowed else "OUTSIDE"
        job.say(
            f"{name:12} {got['mean']:.3f} ± {got['sd']:.3f} (sd)   real {real:.2f} ± {allowed:.2f} allowed   {good}"
        )
    about = {"kind": "glioma", "n": o.n, "seed": o.seed}
    return about | {"modalities": modalities, "prevalence": prevalence, "subjects": rows}
