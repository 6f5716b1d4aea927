"""Detectors scored on the phantoms of the evidence: stores, thresholds on healthy heads, scores and differences."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import mmccd
from mmccd import __version__, phantom
from mmccd.benchmark.dataset import ScoredSubject, load_evaluation_set, make_stores, store_paths
from mmccd.benchmark.measure import anomaly_maps, count_evaluations
from mmccd.benchmark.plan import RECIPES, Plan, Recipe
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.store import SliceStore
from mmccd.cluster import open_workers
from mmccd.detector import Detector, EverythingPositive, fingerprint, healthy_threshold, load_detector
from mmccd.runtime import single_thread
from mmccd.scoring import slice_protocol
from mmccd.slices import to_volume
from mmccd.summary import bootstrap_interval, paired_bootstrap, score_subjects
from mmccd.translate import directed_pairs

MODALITIES = ("flair", "t1", "t2")
PAIRS = tuple(directed_pairs(MODALITIES))
KINDS = {"glioma": "glioma", "ms": "MS", "infarct": "infarct"}
SCORES = ("dice", "dice_oracle", "ap", "auroc", "fpr")
FLOOR = "everything positive"


@dataclass(frozen=True)
class Job:
    """What a run is given besides its recipe: a folder to work in, processes, a device, and where progress goes."""

    work: Path
    jobs: int = 1
    device: str = "cpu"
    say: Callable[[str], None] = print


def code_digest() -> str:
    """SHA-256, cut short, of the modules of the package, since one version has many states before its release."""
    files = sorted(Path(mmccd.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)).hexdigest()[:16]


def circumstances(device: str) -> dict[str, Any]:
    """The date, the device and the versions with which something is measured."""
    from datetime import date

    return {
        "date": date.today().isoformat(),
        "device": device,
        "torch": torch.__version__,
        "mmccd": __version__,
        "code_sha256": code_digest(),
        "phantom": phantom.VERSION,
    }


def span(ends: tuple[int, int]) -> range:
    """All axial places from the first to the last."""
    return range(ends[0], ends[1] + 1)


@dataclass(frozen=True)
class Evidence(Plan):
    """The phantoms on which packaged detectors are scored, as a plan of `mmccd.benchmark` that trains nothing.

    Attributes:
        test: The subjects that are scored.
        calibrate: Other, healthy heads, which set the thresholds.
        scored: Pixels along a side of the slices that are scored.
        places: First and last axial place of the slices that are scored, and that set the thresholds.
        heads: The same for the slices that the store of the healthy heads holds.
        calibration_slices: How many of their slices at places 70 to 89 set a threshold; 40 of 400 are every tenth.
        healthy_slices: How many of the 20 slices of a healthy subject are checked for false alarms.
    """

    _: KW_ONLY
    test: Phantoms
    calibrate: Phantoms
    scored: int = 240
    places: tuple[int, int] = (70, 89)
    heads: tuple[int, int] = (30, 125)
    calibration_slices: int = 400
    healthy_slices: int = 20
    shipped: str = "only"

    @property
    def recipe(self) -> Recipe:
        return replace(
            RECIPES["cpu"],
            scored=self.scored,
            train_places=span(self.heads),
            test_places=span(self.places),
            test=self.test,
            calibrate=self.calibrate,
            calibration_slices=self.calibration_slices,
            healthy_slices=self.healthy_slices,
        )


def open_evidence(job: Job, test: dict[str, Any], calibrate: dict[str, Any], **options: Any) -> Evidence:
    """The evidence of a recipe, its stores made or completed in the folder of the job."""
    scored, healthy = Phantoms(**test), Phantoms(**calibrate)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    plan = Evidence(job.work / f"phantoms-{scored.seed}", test=scored, calibrate=healthy, device=job.device, **options)
    make_stores(plan, job.jobs)
    return plan


# rows of the table


@dataclass(frozen=True)
class Row:
    """A line of the table: a packaged detector, its translation alone ("one-way"), or networks of a run of training."""

    method: str
    title: str
    input: str | None = None
    target: str | None = None
    run: str = ""

    @property
    def key(self) -> str:
        return f"{self.method} {'-'.join(m for m in (self.input, self.target) if m)}".strip()

    @property
    def needs(self) -> tuple[str, ...]:
        """The modalities that have to be there for a map."""
        wanted = (self.input, self.target if self.method == "one-way" else None)
        return tuple(m for m in wanted if m)

    def load(self) -> Detector:
        """The detector itself, on the CPU."""
        if self.method == FLOOR:
            return EverythingPositive()
        if self.run:
            return load_detector(self.run).for_pair(self.input, self.target)
        name = "cycle" if self.method == "one-way" else self.method
        return load_detector("-".join(m for m in (name, self.input, self.target) if m))


def make_rows(
    single: dict[str, str], paired: dict[str, str], pairs: Iterable = PAIRS, runs: dict[str, str] | None = None
) -> list[Row]:
    """All rows of a recipe: everything positive, then by input its methods, then those of each pair.

    Args:
        single: Titles by method that takes one modality; `{input}` stands for its name.
        paired: Titles by method that goes to a target and back; `{target}` stands for its name.
        pairs: (input, target) of all that are measured.
        runs: Folder of a run of training by pair, such as `"flair-t2"`, for the method "two networks".
    """
    rows, pairs, runs = [Row(FLOOR, FLOOR)], [tuple(p) for p in pairs], runs or {}
    for x in dict.fromkeys(x for x, _ in pairs):
        rows += [Row(name, title.format(input=x.upper()), x) for name, title in single.items()]
        for y in (y for a, y in pairs if a == x):
            for name, title in paired.items():
                run = (runs.get(f"{x}-{y}") or runs.get(f"{y}-{x}") or "") if name == "two networks" else ""
                if run or name != "two networks":
                    rows.append(Row(name, title.format(input=x.upper(), target=y.upper()), x, y, run))
    return rows


class OneWay:
    """The error of a translation against the target itself, in the shape in which `maps` takes a detector."""

    def __init__(self, detector: Detector):
        c = detector.config
        self.detector, self.device, self.modules = detector, detector.device, detector.modules
        self.config = SimpleNamespace(input=f"{c.input}+{c.target}", size=c.size, normalisation=c.normalisation)

    @torch.no_grad()
    def anomaly_map(self, both, brain, generator=None):
        x, y = both.split(1, 1)
        return torch.where(brain, (self.detector.translate(x, brain, generator) - y) ** 2, 0.0)


def row_maps(row: Row, detector: Detector, batch: dict) -> torch.Tensor:
    """The anomaly maps (b 1 h w) of a row, with the same noise for every subject."""
    if row.method != "one-way":
        return anomaly_maps(detector, batch, 0)
    both = torch.cat([batch[m] for m in row.needs], 1)
    return anomaly_maps(OneWay(detector), batch | {"+".join(row.needs): both}, 0)


# the measurement


def protocol_pixels(subject: ScoredSubject, anomaly: torch.Tensor) -> tuple:
    """(id, scores, truth) of the brain's pixels in the slice with most lesion."""
    lesion, brain = to_volume(subject.batch["lesion"]), to_volume(subject.batch["brain"])
    return subject.id, *slice_protocol(to_volume(anomaly), lesion, brain, range(1))


def measure_row(plan: Evidence, row: Row) -> dict[str, Any]:
    """Threshold, false alarms on healthy heads, scores by kind of lesion, and network evaluations for a slice."""
    data, detector = load_evaluation_set(plan), row.load().to(plan.device)
    healthy = row_maps(row, detector, data.calibration)[data.calibration["brain"]]
    fixed = row.method == FLOOR
    h = detector.threshold if fixed else healthy_threshold(healthy, plan.recipe.fpr)
    alarms = [row_maps(row, detector, s.batch)[s.batch["brain"]] > h for s in data.healthy]
    with count_evaluations(detector) as counted:
        found = [(s, protocol_pixels(s, row_maps(row, detector, s.batch))) for s in data.subjects]
    kinds = {k: [p for s, p in found if s.kind == k] for k in KINDS}
    return {
        "threshold": h,
        "fpr_reached": None if fixed else (healthy > h).double().mean().item(),
        "fingerprint": fingerprint(detector),
        "healthy": [a.double().mean().item() for a in alarms],
        "kinds": {k: score_subjects(p, h) for k, p in kinds.items() if p},
        "evaluations": sum(counted) / len(found),
    }


def in_parallel(work: Callable, tasks: list[tuple], jobs: int) -> Iterator:
    """`work(*task)` for all tasks, in their order, in several processes of one thread each."""
    if jobs == 1:
        with single_thread():
            yield from (work(*t) for t in tasks)
        return
    with open_workers(jobs) as workers:
        yield from (f.result() for f in [workers.submit(f"task {i}", work, *t) for i, t in enumerate(tasks)])


def over_subjects(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation, maximum and bootstrap interval of one number a subject."""
    if not values:
        return {"n": 0}
    low, high = bootstrap_interval(values) if len(values) > 1 else (None, None)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"n": len(values), "mean": float(np.mean(values)), "sd": sd, "max": max(values), "low": low, "high": high}


def outline(s: ScoredSubject) -> list:
    """What a subject is, whatever detector it is given to: id, place, lesion in cm2, pixels, prevalence."""
    truth = s.batch["lesion"][s.batch["brain"]]
    return [s.id, s.place, s.lesion_cm2, truth.numel(), truth.double().mean().item()]


def describe_evidence(plan: Evidence) -> dict[str, Any]:
    """Seeds, rule of the threshold, subjects: what all results on the evidence have in common."""
    data, r, stores = (
        load_evaluation_set(plan),
        plan.recipe,
        {k: SliceStore(p) for k, p in store_paths(plan).items() if p.exists()},
    )
    wanted = {"evidence": (plan.test, stores["test"]), "calibration": (plan.calibrate, stores["calibrate"])}
    missing = {k: sorted({id for id, _ in p.tasks()} - set(s.ids)) for k, (p, s) in wanted.items()}
    return {
        "seed": {k: p.seed for k, (p, _) in wanted.items()},
        "fpr": r.fpr,
        "missing": {k: ids for k, ids in missing.items() if ids},
        "calibrated_on": data.basis,
        "left_out": [f"{id}: no lesion at places {r.test_places[0]} to {r.test_places[-1]}" for id in data.left_out],
    }


def evaluate(plan: Evidence, rows: list[Row], job: Job, records: dict[str, dict]) -> tuple[dict, dict[str, float]]:
    """Score all rows on all subjects.

    Args:
        records: By method, what shall stand beside its measurements.

    Returns:
        `subjects`, `methods`, `kinds` and `healthy` as the results in data/results hold them, and by row the network
        evaluations for a slice.
    """
    data = load_evaluation_set(plan)
    columns = ["id", "place", "lesion_cm2", "pixels", "prevalence"]
    subjects = {k: {"columns": columns, "rows": [outline(s) for s in data.subjects if s.kind == k]} for k in KINDS}
    methods, kinds, shares, costs = {}, {k: {} for k in KINDS}, {}, {}
    for row, got in zip(rows, in_parallel(measure_row, [(plan, row) for row in rows], job.jobs)):
        about = {"method": row.title, "input": row.input, "target": row.target, "needs": list(row.needs)}
        measured = {k: got[k] for k in ("threshold", "fpr_reached", "fingerprint")}
        methods[row.key] = about | measured | records.get(row.key, records.get(row.method, {}))
        shares[row.key], costs[row.key] = got["healthy"], got["evaluations"]
        for k, r in got["kinds"].items():
            kinds[k][row.key] = {
                "oracle_threshold": r["oracle_threshold"],
                "summary": {c: r["summary"][c] for c in SCORES},
                "columns": list(SCORES),
                "rows": [[s[c] for c in SCORES] for s in r["subjects"]],
            }
        found = ", ".join(f"{k} AP {r['summary']['ap']['mean']:.3f}" for k, r in got["kinds"].items())
        job.say(f"{row.key:24} threshold {got['threshold']:.4g}, {found}")
    healthy = {"ids": [s.id for s in data.healthy], "shares": shares}
    healthy["summary"] = {k: over_subjects(v) for k, v in shares.items()}
    return {"subjects": subjects, "methods": methods, "kinds": kinds, "healthy": healthy}, costs


# what follows from the rows


def subject_rows(result: dict, kind: str, key: str) -> list[dict[str, Any]]:
    """The subjects of a kind as a row scored them, a dict each."""
    subjects, scores = result["subjects"][kind], result["kinds"][kind][key]
    return [
        dict(zip(subjects["columns"], a)) | dict(zip(scores["columns"], b))
        for a, b in zip(subjects["rows"], scores["rows"], strict=True)
    ]


def difference(result: dict, kind: str, a: str, b: str) -> dict[str, dict]:
    """How much better row `a` scores than row `b`, subject by subject, with bootstrap intervals."""
    one, other = (subject_rows(result, kind, key) for key in (a, b))
    return {c: paired_bootstrap([r[c] for r in one], [r[c] for r in other]) for c in ("ap", "dice_oracle", "dice")}
