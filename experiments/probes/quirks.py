"""How much each quirk of a published protocol moves a score: the same maps, scored again and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from evidence import Evidence, Job, describe_evidence, open_evidence

from mmccd.benchmark.dataset import ScoredSubject, load_evaluation_set
from mmccd.benchmark.measure import anomaly_maps
from mmccd.detector import Detector, fingerprint, load_detector
from mmccd.files import round_floats
from mmccd.masking import published_masks
from mmccd.protocols import CLEAN, PAPER, Quirks, paper_scores, resize_for_scoring
from mmccd.runtime import single_thread
from mmccd.schemas import checked
from mmccd.summary import paired_bootstrap

QUIRKS = tuple(f.name for f in fields(Quirks) if f.name != "few_strips")  # that one acts on predictions, not on maps
SCORES = ("dice", "auc", "assd")


@dataclass(frozen=True)
class Options:
    """What the recipe says: subjects (arguments of `open_evidence`), titles by detector, the size that is scored."""

    evidence: dict[str, Any]
    detectors: dict[str, str]
    titles: dict[str, str]  # of the quirks
    size: int


@dataclass(frozen=True)
class Slices:
    """Test slices, one a subject, gliomas first, and healthy slices of other subjects that set thresholds."""

    test: list[ScoredSubject]
    healthy: dict


def with_most_brain(s: ScoredSubject) -> ScoredSubject:
    """A healthy subject, of whose slices only the one with most brain is left."""
    k = int(s.batch["brain"].flatten(1).sum(1).argmax())
    return replace(s, place=s.place + k, batch={m: x[[k]] for m, x in s.batch.items()})


def collect(plan: Evidence) -> Slices:
    """The slices that are scored: of gliomas those with most lesion, of healthy subjects those with most brain."""
    data = load_evaluation_set(plan)
    gliomas = [s for s in data.subjects if s.kind == "glioma"]
    return Slices(gliomas + [with_most_brain(s) for s in data.healthy], data.calibration)


def protocols(size: int) -> Iterator[tuple[str, tuple[Quirks, int]]]:
    """Every protocol: clean and published, with each quirk alone switched on in the one and off in the other."""
    yield "own size", (CLEAN, 0)
    yield "clean", (CLEAN, size)
    yield from ((f"clean + {q}", (replace(CLEAN, **{q: True}), size)) for q in QUIRKS)
    yield "paper", (PAPER, size)
    yield from ((f"paper - {q}", (replace(PAPER, **{q: False}), size)) for q in QUIRKS)


def score(anomaly: list, slices: Slices, healthy: tuple, fpr: float, quirks: Quirks, size: int) -> dict[str, Any]:
    """What one protocol says of the maps of one detector; where it would stop with an error, what else it would say."""
    truths, brains = ([s.batch[k][0, 0].numpy() for s in slices.test] for k in ("lesion", "brain"))
    try:
        r, stopped = paper_scores(anomaly, truths, brains, quirks, healthy, fpr, size), {}
    except ValueError as error:
        if not quirks.empty_error:
            raise
        quirks, stopped = replace(quirks, empty_error=False), {"error": str(error)}
        r = paper_scores(anomaly, truths, brains, quirks, healthy, fpr, size)

    def known(k: str, v: float) -> float | None:
        return None if np.isnan(v) or (stopped and k == "assd") else v

    return stopped | {
        "threshold": r["threshold"],
        **{k: known(k, r[k]) for k in SCORES},
        "healthy": r["healthy"] and {k: known(k, v) for k, v in r["healthy"].items()},
        "rows": [[known(k, row[k]) for k in SCORES] for row in r["rows"] if row["lesion"]],
    }


def measure(detector: Detector, slices: Slices, fpr: float, size: int) -> dict[str, dict]:
    """All protocols on the maps of one detector, which are made once."""
    anomaly = [anomaly_maps(detector, s.batch, 0)[0, 0].numpy() for s in slices.test]
    calibration = anomaly_maps(detector, slices.healthy, 0)[:, 0].numpy(), slices.healthy["brain"][:, 0].numpy()
    healthy = tuple(list(v) for v in calibration)
    return {name: score(anomaly, slices, healthy, fpr, *how) for name, how in protocols(size)}


def near_the_border(slices: Slices, size: int) -> float:
    """Share of the brain's pixels that fewer of the published strips cover than the middle of the picture."""
    cover = published_masks(size).sum(0)[0].numpy()
    brains = [s.batch["brain"][0, 0].numpy() for s in slices.test]
    brains = [resize_for_scoring(np.zeros(b.shape), np.zeros(b.shape), b, size)[2] for b in brains]
    return float(sum((b & (cover < cover.max())).sum() for b in brains) / sum(b.sum() for b in brains))


def moves(runs: dict[str, dict]) -> dict[str, Any]:
    """How much the size, each quirk and all quirks move each score of one detector, subject by subject."""

    def moved(after: str, before: str) -> dict[str, dict]:
        a, b = ([list(c) for c in zip(*runs[r]["rows"])] for r in (after, before))
        return {c: paired_bootstrap(a[i], b[i]) for i, c in enumerate(SCORES)}

    return {
        "size": moved("clean", "own size"),
        "on": {q: moved(f"clean + {q}", "clean") for q in QUIRKS},
        "off": {q: moved(f"paper - {q}", "paper") for q in QUIRKS},
        "all": moved("paper", "clean"),
    }


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Score all detectors under all protocols."""
    o = checked(options, Options, "the recipe", "correct that option")
    plan = open_evidence(job, **o.evidence)
    slices, detectors = collect(plan), {}
    subjects = [[s.id, s.place, s.lesion_cm2] for s in slices.test]
    what = "share of the brain's pixels near the upper or left border, which published strips cover less often; "
    for name, title in o.detectors.items():
        detector = load_detector(name).to(job.device)
        with single_thread():
            runs = measure(detector, slices, plan.recipe.fpr, o.size)
        detectors[name] = {"name": title, "fingerprint": fingerprint(detector), "runs": runs}
        job.say(f"{name:16} Dice clean {runs['clean']['dice']:.3f}, paper {runs['paper']['dice']:.3f}")
    detectors = round_floats(detectors)
    return describe_evidence(plan) | {
        "size": o.size,
        "subjects": {"columns": ["id", "place", "lesion_cm2"], "rows": subjects},
        "columns": list(SCORES),
        "quirks": {q: o.titles[q] for q in QUIRKS},
        "few_strips": {
            "brain": near_the_border(slices, o.size),
            "what": what + "where it is 0 that quirk moves nothing",
        },
        "detectors": detectors,
        "moves": {name: moves(d["runs"]) for name, d in detectors.items()},
    }
