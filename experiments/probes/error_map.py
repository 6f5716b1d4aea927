"""Ways from an error to a map: smoothed by a mean or a median, divided by the error that healthy tissue would have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from evidence import Job

from mmccd.cases.examples import lesion_slice, phantom_slices
from mmccd.detector import fingerprint, healthy_threshold, load_detector, with_config
from mmccd.error_map import ErrorMapConfig, ReconstructionDetector, fit_expected_error
from mmccd.phantom import make_phantom
from mmccd.runtime import single_thread
from mmccd.schemas import checked
from mmccd.scoring import average_precision, dice
from mmccd.summary import paired_bootstrap, summarise

Slices = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Options:
    """What the recipe says.

    Attributes:
        seed: Of all subjects; no network was trained on them.
        patients: How many of each kind of lesion; of each the slice with most lesion counts.
        fit: Healthy heads that the expected error is learned from.
        calibrate: Further healthy heads, which set the thresholds.
        places: First and last axial place, and the step from one to the next.
        weights: Names of packaged detectors.
        settings: Fields of `ErrorMapConfig` by name of the setting; the first is what the others are compared with.
        fpr: Share of the healthy brain above a threshold.
        steps: Of learning the expected error.
    """

    seed: int
    patients: dict[str, int]
    fit: int
    calibrate: int
    places: tuple[int, int, int]
    weights: list[str]
    settings: dict[str, dict[str, Any]]
    fpr: float = 0.01
    steps: int = 200
    modalities: list[str] = field(default_factory=lambda: ["flair", "t1", "t2"])


def generator() -> torch.Generator:
    """The same noise for every detector and setting."""
    return torch.Generator().manual_seed(0)


def joined(parts: Iterable[Slices], names: Iterable[str]) -> Slices:
    """The slices of several subjects as one batch."""
    found = list(parts)
    return {k: torch.cat([p[k] for p in found]) for k in names}


def healthy(o: Options, heads: range) -> Slices:
    """Every so many slices of healthy heads, at the size of the networks."""
    first, last, step = o.places
    made = (make_phantom("healthy", o.seed, i, range(first, last + 1, step)) for i in heads)
    return joined((phantom_slices(p, modalities=o.modalities) for p in made), (*o.modalities, "brain"))


def patients(o: Options, kind: str, n: int) -> Slices:
    """The slice with most lesion of each patient; those without lesion at these places are left out."""
    first, last, _ = o.places
    made = (make_phantom(kind, o.seed, i, range(first, last + 1, 2), twin=False) for i in range(n))
    found = (lesion_slice(phantom_slices(p, modalities=o.modalities)) for p in made)
    return joined((s for s in found if (s["lesion"] & s["brain"]).any()), (*o.modalities, "brain", "lesion"))


@torch.no_grad()
def errors_of(detector: ReconstructionDetector, s: Slices) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Error, reconstruction and brain of slices, some at a time."""
    parts = zip(s[detector.config.input].split(16), s["brain"].split(16))
    found = [(*detector.errors(x, brain, generator()), brain) for x, brain in parts]
    error, reconstruction, brain = map(torch.cat, zip(*found))
    return error, reconstruction, brain


def scores(a: torch.Tensor, s: Slices, threshold: float) -> list[dict[str, float]]:
    """AP and Dice of every patient, in the brain."""
    pixels = [(v[b], t[b]) for v, b, t in zip(a, s["brain"], s["lesion"])]
    return [
        {"ap": average_precision(v.numpy(), t.numpy()), "dice": dice((v > threshold).numpy(), t.numpy())}
        for v, t in pixels
    ]


def measure(o: Options, name: str, fit: Slices, calibrate: Slices, ill: dict[str, Slices]) -> dict[str, Any]:
    """All settings of one detector: scores by kind, and by how much its AP exceeds that of the first setting."""
    detector = load_detector(name)
    assert isinstance(detector, ReconstructionDetector)
    learned = with_config(detector, error=ErrorMapConfig(expected=True))
    fit_expected_error(learned, fit, generator(), variants=(learned.variant,), steps=o.steps)
    known, first = {k: errors_of(detector, s) for k, s in (ill | {"": calibrate}).items()}, next(iter(o.settings))
    found: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[str, list[dict[str, float]]]] = {}
    for setting, fields in o.settings.items():
        one = with_config(learned, error=ErrorMapConfig(**fields))
        with torch.no_grad():
            maps = {k: one.error_map(*v) for k, v in known.items()}
        h = healthy_threshold(maps[""][calibrate["brain"]], o.fpr)
        rows[setting] = {k: scores(maps[k], s, h) for k, s in ill.items()}
        found[setting] = {k: {c: summarise(v, c) for c in ("ap", "dice")} for k, v in rows[setting].items()}
        found[setting]["threshold"] = h
        if setting != first:
            found[setting]["gain"] = {
                k: paired_bootstrap([r["ap"] for r in v], [r["ap"] for r in rows[first][k]])
                for k, v in rows[setting].items()
            }
    return {"fingerprint": fingerprint(detector), "settings": found}


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure all settings of all detectors."""
    o = checked(options, Options, "the recipe", "correct that option")
    with single_thread():
        fit, calibrate = healthy(o, range(o.fit)), healthy(o, range(o.fit, o.fit + o.calibrate))
        ill = {kind: patients(o, kind, n) for kind, n in o.patients.items()}
        job.say(", ".join(f"{len(s['brain'])} {kind}" for kind, s in ill.items()))
        methods, prints = {}, {}
        for name in o.weights:
            got = measure(o, name, fit, calibrate, ill)
            methods[name], prints[name] = got["settings"], got["fingerprint"]
            for setting, v in methods[name].items():
                said = ", ".join(f"{kind} {v[kind]['ap']['mean']:.3f}" for kind in ill)
                job.say(f"{name:16} {setting:24} AP {said}")
    return {
        "seed": o.seed,
        "kinds": list(ill),
        "patients": {kind: len(s["brain"]) for kind, s in ill.items()},
        "healthy_slices": {"fit": len(fit["brain"]), "calibrate": len(calibrate["brain"])},
        "fpr": o.fpr,
        "settings": o.settings,
        "fingerprints": [list(v) for v in prints.items()],
        "methods": methods,
    }
