"""All detectors on the phantoms of the evidence, each with every way from an error to a map, by subject."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from evidence import (
    FLOOR,
    KINDS,
    PAIRS,
    SCORES,
    Evidence,
    Job,
    Row,
    describe_evidence,
    in_parallel,
    make_rows,
    open_evidence,
    outline,
    over_subjects,
    protocol_pixels,
    row_maps,
)
from probes import derived

from mmccd.benchmark.dataset import load_evaluation_set
from mmccd.benchmark.measure import count_evaluations
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.detector import Detector, fingerprint, healthy_threshold, load_detector, with_config
from mmccd.error_map import ErrorMapConfig, ReconstructionDetector, fit_expected_error
from mmccd.files import round_floats, to_json, write_atomic
from mmccd.itermask import guided_by_cycle
from mmccd.masked_diffusion import MMCCD, imagination_of
from mmccd.runtime import evenly_spaced
from mmccd.schemas import checked
from mmccd.slices import resize, resize_labels
from mmccd.summary import score_subjects

PLAIN = "error"


@dataclass(frozen=True)
class Options:
    """What the recipe says.

    Attributes:
        evidence: Arguments of `open_evidence`: subjects, calibration, how many slices of each.
        expect: Healthy phantoms that the expected errors are learned from: arguments of `Phantoms`.
        expect_slices: How many of their slices.
        single: Titles by method that takes one modality.
        paired: Titles by method that goes to a target and back.
        settings: Fields of an `ErrorMapConfig` by name of the setting; all reconstructing detectors get all of them.
        runs: Runs of training by method, such as "mmccd, seed 1", in the folder of the job: rows with other seeds.
        early: The same for weights from the midst of a training, without the expected error: does AP follow R2?
        pairs: (input, target) of all that are measured.
        contrasts: Pairs of methods that are compared subject by subject, with the same setting.
    """

    evidence: dict[str, Any]
    expect: dict[str, Any]
    expect_slices: int
    single: dict[str, str]
    paired: dict[str, str]
    settings: dict[str, dict[str, Any]]
    contrasts: list[list[str]]
    runs: dict[str, str] = field(default_factory=dict)
    early: dict[str, str] = field(default_factory=dict)
    pairs: tuple = PAIRS

    def settings_of(self, method: str) -> dict[str, dict[str, Any]]:
        """The settings that a method gets."""
        return {k: v for k, v in self.settings.items() if method not in self.early or not v.get("expected")}


def load(row: Row, o: Options) -> Detector:
    """The detector of a row; "guided" stands for the networks of `mmccd`, "NAME, seed N" for a run of training."""
    if row.method in (runs := o.runs | o.early):
        packaged = load_detector("-".join((row.method.split(",")[0], row.input or "", row.target or "")))
        one = load_detector(runs[row.method]).for_pair(row.input, row.target)
        return with_config(one, sampler=packaged.config.sampler)
    if row.method == "guided":
        found = load_detector(f"mmccd-{row.input}-{row.target}")
        assert isinstance(found, MMCCD)
        return guided_by_cycle(found)
    return row.load()


def cached(errors: Callable) -> Callable:
    """The same function, which computes the error of a slice once."""
    known: dict[bytes, Any] = {}

    def find(x: torch.Tensor, brain: torch.Tensor, generator: torch.Generator | None = None) -> Any:
        key = x.numpy().tobytes()
        if key not in known:
            known[key] = errors(x, brain, generator)
        return known[key]

    return find


def with_settings(d: Detector, settings: dict, expect: Path, slices: int) -> Iterator[tuple[str, Detector]]:
    """The detector with each setting, or as it is where it reconstructs nothing; errors are computed once."""
    if not isinstance(d, ReconstructionDetector):
        yield PLAIN, d
        return
    learned = with_config(d, error=ErrorMapConfig(expected=any(v.get("expected") for v in settings.values())))
    if learned.config.error.expected:
        data = SliceStore(expect).dataset(in_memory=False)
        batch = data.batch(evenly_spaced(len(data), slices))
        fit_expected_error(learned, batch, torch.Generator().manual_seed(0), variants=(learned.variant,))
    errors = cached(learned.errors)
    for name, fields in settings.items():
        one = with_config(learned, error=ErrorMapConfig(**fields))
        one.errors = errors
        yield name, one


@torch.no_grad()
def imagination(d: Detector, plan: Evidence) -> float | None:
    """R2 of what is hidden, on the healthy heads that set the thresholds; None for a detector that hides nothing."""
    if not isinstance(d, MMCCD):
        return None
    healthy, size = load_evaluation_set(plan).calibration, d.config.size
    batch = {m: resize(healthy[m], size, -1.0) for m in (d.config.input, d.config.target)}
    return imagination_of(d, batch | {"brain": resize_labels(healthy["brain"], size)})["r2"]


def measure(plan: Evidence, row: Row, o: Options, expect: Path) -> dict[str, dict[str, Any]]:
    """By setting: threshold, false alarms on healthy heads, scores by kind of lesion."""
    torch.set_num_threads(1)
    data, detector = load_evaluation_set(plan), load(row, o)
    weights = fingerprint(detector)
    if row.method == "guided":
        fit_on_healthy(detector, data.calibration)
    known, found = imagination(detector, plan), {}
    for name, d in with_settings(detector, o.settings_of(row.method), expect, o.expect_slices):
        healthy = row_maps(row, d, data.calibration)[data.calibration["brain"]]
        h = detector.threshold if row.method == FLOOR else healthy_threshold(healthy, plan.recipe.fpr)
        with count_evaluations(d) as counted:
            pixels = [(s.kind, protocol_pixels(s, row_maps(row, d, s.batch))) for s in data.subjects]
        kinds = {k: [p for kind, p in pixels if kind == k] for k in KINDS}
        found[name] = {
            "threshold": h,
            "healthy": [(row_maps(row, d, s.batch)[s.batch["brain"]] > h).double().mean().item() for s in data.healthy],
            "kinds": {k: score_subjects(p, h) for k, p in kinds.items() if p},
            "imagination_r2": known,
            "fingerprint": weights,
            "evaluations": sum(counted) / len(data.subjects),
        }
    return found


def measure_once(plan: Evidence, row: Row, o: Options, expect: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """The same, read from a file where the row was measured before, with the same weights and options."""
    options = {"evidence": o.evidence, "expect": [o.expect, o.expect_slices], "settings": o.settings_of(row.method)}
    about = json.loads(json.dumps({"weights": fingerprint(load(row, o)), **options}))
    file = folder / f"{row.key}.json"
    if file.exists() and (old := json.loads(file.read_text()))["about"] == about:
        return old["found"]
    found = measure(plan, row, o, expect)
    write_atomic(file, to_json({"about": about, "found": found}).encode())
    return found


def fit_on_healthy(detector: Detector, healthy: dict[str, torch.Tensor]) -> None:
    """Let a detector measure what it needs before its threshold is chosen, on the same healthy slices."""
    c = detector.config
    x, brain = resize(healthy[c.input], c.size, -1.0), resize_labels(healthy["brain"], c.size)
    detector.eval().fit_healthy(x, brain)


def all_rows(o: Options) -> list[Row]:
    """The rows of the packaged detectors, of cycle-guided hiding, and of the other training seeds."""
    others = {name: name for name in o.runs | o.early}
    return make_rows(o.single, o.paired | others, o.pairs)


def named(method: str, setting: str) -> str:
    """What a method is called with a setting; the threshold has none."""
    return method if setting == PLAIN or method == "threshold" else f"{method} + {setting}"


def contrasts(o: Options) -> list[list[str]]:
    """The pairs of the recipe, with every setting."""
    return [[named(a, s), named(b, s)] for a, b in o.contrasts for s in o.settings]


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure all rows with all settings, and compare them."""
    o = checked(options, Options, "the recipe", "correct that option")
    plan, expect = open_evidence(job, **o.evidence), job.work / "expect.zarr"
    prepare(
        Phantoms(**o.expect), expect, size=64, slices=range(30, 126), modalities=["flair", "t1", "t2"], jobs=job.jobs
    )
    o = replace(o, **{name: {k: str(job.work / v) for k, v in getattr(o, name).items()} for name in ("runs", "early")})
    data = load_evaluation_set(plan)
    result: dict[str, Any] = describe_evidence(plan) | {"settings": o.settings}
    columns = ["id", "place", "lesion_cm2", "pixels", "prevalence"]
    result["subjects"] = {
        k: {"columns": columns, "rows": [outline(s) for s in data.subjects if s.kind == k]} for k in KINDS
    }
    result |= {"methods": {}, "kinds": {k: {} for k in KINDS}, "healthy": {"ids": [s.id for s in data.healthy]}}
    shares: dict[str, list[float]] = {}
    rows, folder = all_rows(o), job.work / "comparison"
    folder.mkdir(exist_ok=True)
    for row, got in zip(rows, in_parallel(measure_once, [(plan, r, o, expect, folder) for r in rows], job.jobs)):
        for setting, v in got.items():
            key = row.key.replace(row.method, named(row.method, setting), 1)
            about = {"method": row.title, "input": row.input, "target": row.target, "setting": setting}
            result["methods"][key] = about | {
                k: v[k] for k in ("threshold", "fingerprint", "imagination_r2", "evaluations")
            }
            shares[key] = v["healthy"]
            for k, r in v["kinds"].items():
                result["kinds"][k][key] = {
                    "oracle_threshold": r["oracle_threshold"],
                    "summary": {c: r["summary"][c] for c in SCORES},
                    "columns": list(SCORES),
                    "rows": [[s[c] for c in SCORES] for s in r["subjects"]],
                }
            said = ", ".join(f"{k} AP {r['summary']['ap']['mean']:.3f}" for k, r in v["kinds"].items())
            job.say(f"{key:44} {said}")
    result["healthy"] |= {"shares": shares, "summary": {k: over_subjects(v) for k, v in shares.items()}}
    result = round_floats(result)
    result["paired"] = round_floats(derived.paired(SimpleNamespace(result=result), contrasts(o)))
    return result
