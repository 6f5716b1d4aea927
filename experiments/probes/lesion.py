"""What becomes of a lesion: how much of it a network gives back, how depth changes that, which tissue hides it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from evidence import MODALITIES, Evidence, Row, protocol_pixels, row_maps

from mmccd.benchmark.dataset import ScoredSubject, load_evaluation_set
from mmccd.detector import Detector
from mmccd.intensity import BACKGROUND
from mmccd.masked_diffusion import with_config
from mmccd.phantom import make_phantom
from mmccd.registry import METHODS
from mmccd.scanner import HEALTHY
from mmccd.scoring import auroc
from mmccd.slices import resize, resize_labels, to_slices
from mmccd.summary import score_subjects, summarise

COLUMNS = ("copied", "contrast", "inside", "outside")
LEAST = 20  # pixels of a tissue, for an AUROC that says something


def healthy_twin(s: ScoredSubject, seed: int, modalities: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The same slice of the subject's healthy twin, by modality, and its tissue.

    The twin is normalised as the patient is; how, is read off the patient's own slice, which lies in the store.

    Raises:
        ValueError: The slice in the store is not of this phantom.
    """
    p = make_phantom(s.kind, seed, int(s.id.split("-")[-1]), range(s.place, s.place + 1))
    out, brain = {"tissue": to_slices(p.tissue)}, s.batch["brain"]
    for m in modalities:
        raw, twin, x = to_slices(p.volumes[m]), to_slices(p.twin[m]).float(), s.batch[m]
        half, centre = np.polyfit(raw[brain].numpy(), x[brain].double().numpy(), 1)
        if (half * raw[brain] + centre - x[brain]).abs().max() > 0.02:
            raise ValueError(f"{s.id} cannot be made again as it lies in the store: another phantom made it")
        out[m] = torch.where(brain, half * twin + centre, -1.0).float()
    return out


def reconstruct(detector: Detector, x: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """What a network gives back of slices at its own size."""
    if hasattr(detector, "reconstruct"):
        return detector.reconstruct(x, brain, torch.Generator(detector.device).manual_seed(0))
    return detector.translate_back(detector.translate(x, brain), brain)


@torch.no_grad()
def copied_share(detector: Detector, s: ScoredSubject, twin: dict[str, torch.Tensor]) -> tuple[float, ...] | None:
    """`COLUMNS` of one subject, at the network's size; None where the lesion is lost in the network's pixels.

    `copied` is <x_hat - twin, x - twin> / <x - twin, x - twin> over the lesion: 1 if the lesion comes back, 0 if the
    healthy tissue does. `contrast` is the mean of (x - twin)^2 there, `inside` that of (x_hat - twin)^2, `outside` the
    same over the rest of the brain.
    """
    c, edge = detector.config, BACKGROUND.get(detector.config.normalisation, -1.0)
    x, h = (resize(v[c.input], c.size, edge).to(detector.device) for v in (s.batch, twin))
    brain, lesion = (resize_labels(s.batch[k], c.size).to(detector.device) for k in ("brain", "lesion"))
    lesion = lesion & brain
    if not lesion.any():
        return None
    back = reconstruct(detector, x, brain)
    there, here, error = (x - h)[lesion].double(), (back - h)[lesion].double(), ((back - h) ** 2).double()
    share, contrast = here @ there / (there @ there), (there**2).mean()
    return tuple(v.item() for v in (share, contrast, error[lesion].mean(), error[brain & ~lesion].mean()))


@lru_cache(1)
def pairs_of(plan: Evidence) -> list[tuple[ScoredSubject, dict]]:
    """The gliomas of the evidence, each with its healthy twin."""
    gliomas = [s for s in load_evaluation_set(plan).subjects if s.kind == "glioma"]
    return [(s, healthy_twin(s, plan.test.seed, plan.modalities)) for s in gliomas]


def reconstructing(measured) -> list[Row]:
    """The rows whose detectors give an image back: trained on one modality, or a cycle."""
    single = [r for r in measured.rows if r.method in METHODS and METHODS[r.method].trainable and not r.target]
    cycles = [m for k, m in measured.result["methods"].items() if k.startswith("cycle ")]
    rows = single + [Row("cycle", m["method"], m["input"], m["target"]) for m in cycles]
    return sorted(rows, key=lambda r: MODALITIES.index(r.input))


def copies(measured) -> dict[str, Any]:
    """How much of each glioma every network gives back: `COLUMNS` by subject, and their means."""
    pairs, out = pairs_of(measured.plan), {}
    for row in reconstructing(measured):
        detector = row.load().to(measured.job.device)
        out[row.key] = [copied_share(detector, *p) for p in pairs]
    named = {k: [dict(zip(COLUMNS, r)) for r in v if r] for k, v in out.items()}
    return {
        "subjects": [s.id for s, _ in pairs],
        "columns": list(COLUMNS),
        "rows": out,
        "summary": {k: {c: summarise(v, c) for c in COLUMNS} for k, v in named.items() if v},
    }


def depths(measured, detectors: list[str], depths: list[int]) -> list[dict[str, Any]]:
    """Partial diffusion at other depths, with as many evaluations: scores of gliomas, and what is given back."""
    pairs, out = pairs_of(measured.plan), []
    for method, input in (name.rsplit("-", 1) for name in detectors):
        row = Row(method, "", input)
        for depth in depths:
            detector = with_config(row.load().to(measured.job.device), depth=depth)
            scores = score_subjects([protocol_pixels(s, row_maps(row, detector, s.batch)) for s, _ in pairs])
            copied = [{"copied": c[0]} for p in pairs if (c := copied_share(detector, *p))]
            out.append(
                {
                    "detector": f"{method}-{input}",
                    "noise": detector.config.noise,
                    "depth": depth,
                    "evaluations": detector.config.n_steps,
                    "summary": {c: scores["summary"][c] for c in ("ap", "auroc", "dice_oracle")},
                    "copied": summarise(copied, "copied"),
                }
            )
    return out


def tissues(measured, tissues: list[str]) -> dict[str, dict]:
    """AUROC of the lesion against one healthy tissue of the twin at a time, outside the lesion; means over gliomas."""
    pairs, out = pairs_of(measured.plan), {}
    thresholds = [r for r in measured.rows if r.method == "threshold"]
    for row in (*thresholds, *reconstructing(measured)):
        detector = row.load().to(measured.job.device)
        found = [tissue_scores(row_maps(row, detector, s.batch), s, twin, tissues) for s, twin in pairs]
        out[row.key] = {t: summarise(found, t) for t in tissues}
    return out


def tissue_scores(anomaly: torch.Tensor, s: ScoredSubject, twin: dict, tissues: list[str]) -> dict[str, float | None]:
    """The AUROC of one subject by tissue; None where there is hardly any of it."""
    brain, out = s.batch["brain"], {}
    lesion = s.batch["lesion"] & brain
    for t in tissues:
        other = (twin["tissue"] == 1 + HEALTHY.index(t)) & brain & ~lesion
        score, truth = (torch.cat([v[lesion], v[other]]).numpy() for v in (anomaly, lesion))
        out[t] = auroc(score, truth) if other.sum() >= LEAST else None
    return out
