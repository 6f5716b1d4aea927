"""The packaged plain thresholds as they come, on phantoms of a seed that the phantom was not adjusted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evidence import KINDS, Job, in_parallel, over_subjects, span

from mmccd.cases.case import Case
from mmccd.detection.maps import anomaly_volume
from mmccd.detector import load_detector
from mmccd.phantom import make_phantom
from mmccd.schemas import checked
from mmccd.scoring import slice_protocol
from mmccd.summary import everything_positive, score_subjects


@dataclass(frozen=True)
class Options:
    """What the recipe says: subjects by kind, their seed, the inputs, and the first and last axial place."""

    subjects: dict[str, int]
    seed: int
    inputs: list[str]
    places: tuple[int, int] = (70, 89)


def measure(kind: str, seed: int, index: int, inputs: list[str], slices: range) -> tuple[str, dict[str, Any]]:
    """(id, by input the scores and the truth of the slice with most lesion); of a healthy subject the false alarms."""
    p = make_phantom(kind, seed, index, slices, twin=False)
    out: dict[str, Any] = {}
    for m in inputs:
        case, detector = Case.from_phantom(p, modalities=[m]), load_detector(f"threshold-{m}")
        a, truth = anomaly_volume(case, detector, m), p.labels > 0
        if kind == "healthy":
            out[m] = float((a > detector.threshold)[case.brain].mean())
        elif (truth & case.brain).any():
            out[m] = slice_protocol(a, truth, case.brain, slices=range(len(slices)))
    return p.id, out


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Score every input on every kind of lesion, with everything positive beside."""
    o = checked(options, Options, "the recipe", "correct that option")
    tasks = [(kind, o.seed, i, o.inputs, span(o.places)) for kind, n in o.subjects.items() for i in range(n)]
    made: dict[str, list] = {}
    for task, found in zip(tasks, in_parallel(measure, tasks, job.jobs)):
        made.setdefault(task[0], []).append(found)
    kinds: dict[str, dict] = {}
    for kind in (k for k in KINDS if k in made):
        subjects = {m: [(id, *r[m]) for id, r in made[kind] if m in r] for m in o.inputs}
        kinds[kind] = {
            f"threshold on {m.upper()}": score_subjects(v, load_detector(f"threshold-{m}").threshold)
            for m, v in subjects.items()
        }
        floor = everything_positive(subjects[o.inputs[-1]])
        kinds[kind]["everything positive"] = score_subjects(floor, 0.0, origin="none: true by definition")
    alarms = {m: over_subjects([r[m] for _, r in made.get("healthy", [])]) for m in o.inputs}
    return {
        "seed": o.seed,
        "kinds": kinds,
        "healthy_fpr": {m: {k: v for k, v in a.items() if k in ("n", "mean", "sd", "max")} for m, a in alarms.items()},
        "left_out": [
            f"{id}: no lesion in slices {o.places[0]} to {o.places[1]}" for k in kinds for id, r in made[k] if not r
        ],
    }
